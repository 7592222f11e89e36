"""The role without a host: its variables and templates as Ansible fills them in, its programs by themselves."""

from __future__ import annotations

import functools
import importlib.util
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

CHECKOUT = Path(__file__).resolve().parents[3]
ROLE = CHECKOUT / "ansible" / "roles" / "smtpmail"

# What a play has gathered before it comes to a template, and what an operator must say.
GATHERED = {
    "ansible_facts": {
        "fqdn": "mail.example.org",
        "hostname": "mail",
        "distribution_major_version": "12",
        "all_ipv6_addresses": ["2001:db8::10"],
        "dns": {"nameservers": ["192.0.2.53"]},
        "architecture": "x86_64",
        "python": {"version": {"major": 3, "minor": 11}},
        "getent_passwd": {"bob": []},
    },
    "inventory_hostname": "mail",
    "ansible_managed": "Ansible managed",
    "ansible_check_mode": False,
    "role_path": str(ROLE),
    "smtpmail_hosts_file": {"content": "MTI3LjAuMC4xIGxvY2FsaG9zdAoxMjcuMC4xLjEgbWFpbC5leGFtcGxlLm9yZyBtYWlsCg=="},
    "smtpmail_domains": ["example.org"],
    "smtpmail_users": ["alice", "bob"],
}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.fixture
def templar() -> Callable[..., Templar]:
    """A templar with the variables of the role, and those that are given."""

    return lambda **variables: Templar(DataLoader(), variables=known() | GATHERED | variables)


@functools.cache
def known() -> dict[str, Any]:
    """The variables of the role."""
    init_plugin_loader([])
    found: dict[str, Any] = {}
    for name in ("defaults", "vars"):
        found |= DataLoader().load_from_file(str(ROLE / name / "main.yml"), trusted_as_template=True)
    return found


@pytest.fixture
def value(templar: Callable[..., Templar]) -> Callable[..., Any]:
    """What a variable of the role comes to."""
    return lambda name, **variables: templar(**variables).template(trust_as_template("{{ " + name + " }}"))


@pytest.fixture
def render(templar: Callable[..., Templar]) -> Callable[..., str]:
    """What a template of the role comes to."""

    def filled(name: str, **variables: object) -> str:
        text = (ROLE / "templates" / f"{name}.j2").read_text()
        return str(
            templar(**variables)
            .copy_with_new_env()
            .template(trust_as_template(text), overrides={"trim_blocks": True, "keep_trailing_newline": True})
        )

    return filled


def program(name: str) -> types.ModuleType:
    """A program that the role runs on a host."""
    spec = importlib.util.spec_from_file_location(name, ROLE / "files" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
