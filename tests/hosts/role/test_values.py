"""What an operator may say: bad values are refused in a line before anything changes, and good ones taken as they come.

A play judges them in this order: the argument specification, of what kind they are, what they say.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator
from ansible.template import Templar, trust_as_template
from conftest import ROLE, read

Templars = Callable[..., Templar]
Value = Callable[..., Any]
OPTIONS = read(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]


def refusals(templar: Templars, **variables: object) -> list[str]:
    """What a play says of them and stops."""
    known = {
        name: {key: value for key, value in option.items() if key not in ("description", "default")}
        for name, option in OPTIONS.items()
    }
    required = {"smtpmail_domains": ["example.org"], "smtpmail_users": ["bob"]}
    errors = ArgumentSpecValidator(known).validate(required | variables).error_messages
    if errors:
        return list(errors)
    filled = templar(**variables, smtpmail_specification=OPTIONS)
    misfits = filled.template(trust_as_template("{{ smtpmail_misfits }}"))
    if misfits:
        return list(misfits)
    (task,) = (task for task in read(ROLE / "tasks" / "preflight.yml") if task["name"].startswith("Require names"))
    said = []
    for judgement in task["loop"]:
        verdict = filled.template(trust_as_template(judgement["that"]))
        assert isinstance(verdict, bool)
        if not verdict:
            said.append(str(filled.template(trust_as_template(judgement["fail_msg"]))))
    return said


BAD: list[tuple[dict[str, Any], str]] = [
    # a text instead of a list, of which each letter would be an entry
    ({"smtpmail_users": "bob"}, r"smtpmail_users must be a list, as \[bob\], and is bob"),
    ({"smtpmail_users": "bob,anna"}, "smtpmail_users must be a list"),
    ({"smtpmail_domains": "example.org"}, r"smtpmail_domains must be a list, as \[example\.org\]"),
    ({"smtpmail_addresses": "192.0.2.10"}, "smtpmail_addresses must be a list"),
    ({"smtpmail_firewall_allow": "443/tcp"}, "smtpmail_firewall_allow must be a list"),
    ({"smtpmail_check_outbound": "mx.example.net"}, "smtpmail_check_outbound must be a list"),
    ({"smtpmail_users": 5}, "smtpmail_users must be a list"),
    ({"smtpmail_users": {"bob": 1}}, "smtpmail_users"),
    # and the other way round
    ({"smtpmail_settings": "max-size=5M"}, "smtpmail_settings must be a mapping"),
    ({"smtpmail_aliases": ["sales"]}, "smtpmail_aliases"),
    ({"smtpmail_hostname": ["mail.example.org"]}, "smtpmail_hostname must be one text, and is a list"),
    ({"smtpmail_smarthost": {"host": "x"}}, "smtpmail_smarthost must be one text, and is a mapping"),
    ({"smtpmail_settings": {"port": 2525, "max-size": "5M"}}, "smtpmail_settings has port, for which the role has"),
    # a name without a value
    ({"smtpmail_users": None}, "smtpmail_users.* cannot be converted to a list"),
    ({"smtpmail_addresses": None}, "smtpmail_addresses has no value: give it one, or leave it out"),
    ({"smtpmail_acme_webroot": None}, "smtpmail_acme_webroot has no value"),
    ({"smtpmail_smarthost_password": None}, "smtpmail_smarthost_password has no value"),
    ({"smtpmail_users": ["bob", None]}, "smtpmail_users has an entry without a value"),
    # numbers and switches
    ({"smtpmail_port": "many"}, "smtpmail_port.*many.*int"),
    ({"smtpmail_port": True}, "smtpmail_port must be a whole number, and is True"),
    ({"smtpmail_port": "025"}, "smtpmail_port must be a whole number, and is 025"),
    ({"smtpmail_port": 0}, "must be different ones from 1 to 65535"),
    ({"smtpmail_port": -25}, "smtpmail_port must be a whole number"),
    ({"smtpmail_imap_port": 70000}, r"smtpmail_imap_port .*\(25, 70000, 465\) must be different ones from 1 to 65535"),
    ({"smtpmail_imap_port": 465}, r"\(25, 465, 465\) must be different ones"),
    ({"smtpmail_port": "465"}, r"\(465, 993, 465\) must be different ones"),
    ({"smtpmail_dkim_days": -1}, "smtpmail_dkim_days must be a whole number"),
    ({"smtpmail_devices": "maybe"}, "smtpmail_devices.*maybe.*bool"),
    ({"smtpmail_memory_max": "lots"}, "smtpmail_memory_max is 'lots'"),
    ({"smtpmail_memory_max": "512 MB"}, "smtpmail_memory_max is '512 MB'"),
    # choices
    ({"smtpmail_firewall": "pf"}, "smtpmail_firewall must be one of.*pf"),
    ({"smtpmail_state": "removed"}, "smtpmail_state must be one of.*removed"),
    # names
    ({"smtpmail_hostname": ""}, "smtpmail_hostname is '': set it to the host's full name"),
    ({"smtpmail_hostname": "mail"}, "smtpmail_hostname is 'mail'"),
    ({"smtpmail_hostname": "mail.example.org."}, "smtpmail_hostname"),
    ({"smtpmail_hostname": "mail.example.org\n"}, "smtpmail_hostname"),
    ({"smtpmail_hostname": "https://mail.example.org"}, "smtpmail_hostname"),
    ({"smtpmail_hostname": "post.münchen.example"}, "smtpmail_hostname"),
    ({"smtpmail_domains": []}, r"smtpmail_domains is \[\]: list the domains"),
    ({"smtpmail_domains": [""]}, "smtpmail_domains"),
    ({"smtpmail_domains": ["localhost"]}, "smtpmail_domains"),
    ({"smtpmail_domains": ["bob@example.org"]}, "smtpmail_domains"),
    ({"smtpmail_domains": ["*.example.org"]}, "smtpmail_domains"),
    ({"smtpmail_domains": ["example.org\n"]}, "smtpmail_domains"),
    ({"smtpmail_users": []}, r"smtpmail_users is \[\]: list user names"),
    *[({"smtpmail_users": ["bob", user]}, "smtpmail_users is .*list user names") for user in
      ("", "Bob", "bob@example.org", "../etc", "a" * 65, ".bob", "-rf", "bob smith", "bob\n", "böb", "bob:x")],
    ({"smtpmail_aliases": {"sales": None}}, "smtpmail_aliases is .*: give each address a target"),
    ({"smtpmail_aliases": {"sales": 5}}, "smtpmail_aliases is .*: give each address a target"),
    ({"smtpmail_spool": "mail"}, "smtpmail_spool is 'mail'"),
    ({"smtpmail_spool": "/srv/my mail"}, "smtpmail_spool is '/srv/my mail'"),
    ({"smtpmail_spool": "/"}, "smtpmail_spool is '/'"),
    ({"smtpmail_addresses": ["192.0.2.10/24"]}, "smtpmail_addresses is .*: list IPv4 and IPv6 addresses"),
    ({"smtpmail_addresses": ["mail.example.org"]}, "smtpmail_addresses"),
    ({"smtpmail_addresses": [""]}, "smtpmail_addresses"),
    ({"smtpmail_denied_addresses": ["metadata"]}, "smtpmail_denied_addresses"),
    ({"smtpmail_firewall_allow": ["443"]}, r"smtpmail_firewall_allow is \['443'\]: list ports, each with its protocol"),
    ({"smtpmail_firewall_allow": [443]}, "smtpmail_firewall_allow"),
    ({"smtpmail_firewall_allow": ["https/tcp"]}, "smtpmail_firewall_allow"),
    # what belongs together
    ({"smtpmail_tls": "given"}, "smtpmail_tls is 'given': set smtpmail_tls_cert and smtpmail_tls_key .* controller"),
    ({"smtpmail_tls": "given", "smtpmail_tls_cert": "/nowhere/cert.pem", "smtpmail_tls_key": __file__},
     "smtpmail_tls is 'given', and there is no /nowhere/cert.pem on the controller"),
    ({"smtpmail_tls": "acme"}, "smtpmail_tls is 'acme': set smtpmail_acme_email"),
    ({"smtpmail_tls": "acme", "smtpmail_acme_email": "bob"}, "smtpmail_tls is 'acme': set smtpmail_acme_email"),
    ({"smtpmail_acme_challenge": "dns"}, "it needs the dynamic updates of smtpmail_dns"),
    ({"smtpmail_acme_webroot": "www"}, "smtpmail_acme_webroot must be an absolute path"),
    ({"smtpmail_dns": "update"}, "smtpmail_dns is 'update': set smtpmail_dns_key_name"),
    ({"smtpmail_smarthost_user": "me"}, "smtpmail_smarthost_user and smtpmail_smarthost_password go together"),
]  # fmt: skip


@pytest.mark.parametrize(("variables", "message"), BAD, ids=lambda value: str(value)[:60])
def test_bad_values_are_refused_in_a_line(templar: Templars, variables: dict[str, Any], message: str) -> None:
    said = refusals(templar, **variables)
    assert said
    assert re.search(message, said[0]), said


GOOD: list[dict[str, Any]] = [
    {},
    # as they come from a command line: -e NAME=VALUE
    {"smtpmail_port": "2525", "smtpmail_devices": "false", "smtpmail_dkim_days": "0", "smtpmail_check": "no"},
    {"smtpmail_hostname": "MAIL.Example.ORG", "smtpmail_domains": ["Example.ORG", "münchen.example", "example.com."]},
    {"smtpmail_users": ["0", "_x", "a.b-c", "b" * 64], "smtpmail_spool": "/srv/mail/"},
    {
        "smtpmail_settings": {"max-size": "5M", "smarthost": "smtp.example.net", "tls-cert": "/c"},
        "smtpmail_tls": "none",
    },
    {"smtpmail_aliases": {"sales": ["bob", "carol@example.net"], "@example.org": "bob", "root": []}},
    # the same port, where it is not used
    {"smtpmail_port": 465, "smtpmail_devices": False},
    {"smtpmail_addresses": ["192.0.2.10", "2001:db8::10"], "smtpmail_firewall_allow": ["443/tcp", "60000-61000/udp"]},
    {"smtpmail_denied_addresses": ["169.254.0.0/16", "fe80::/10"], "smtpmail_memory_max": "20%"},
]


@pytest.mark.parametrize("variables", GOOD)
def test_good_values_are_taken(templar: Templars, variables: dict[str, Any]) -> None:
    assert refusals(templar, **variables) == []


def test_the_kinds_are_those_of_the_specification(value: Value) -> None:
    assert value("smtpmail_specification") == OPTIONS


SWITCHES = [name for name, option in OPTIONS.items() if option["type"] == "bool"]


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_read_as_one_wherever_it_is_asked(name: str) -> None:
    """From a command line (-e NAME=false) it comes as a text, and a text that is not empty would be true."""
    uses = []
    for path in [*ROLE.rglob("tasks/**/*.yml"), *ROLE.glob("vars/*"), *ROLE.glob("templates/*")]:
        text = path.read_text()
        if path.suffix == ".yml":
            # Without what is said of it in messages and comments.
            text = "\n".join(code(yaml.safe_load(text)))
        else:
            text = "\n".join(re.findall("{[{%].*?[%}]}", text))
        uses += [(path.name, found) for found in re.findall(rf"\b{name}\b(?:[^_].{{0,8}}|$)", text)]
    assert uses
    assert all(re.match(rf"{name} \| bool\b", found) for _, found in uses), uses


def code(value: Any, key: str = "") -> list[str]:
    """What is evaluated in tasks or variables."""
    if isinstance(value, dict):
        return [text for name, inner in value.items() for text in code(inner, str(name))]
    if isinstance(value, list):
        return [text for inner in value for text in code(inner, key)]
    if not isinstance(value, str) or key in ("fail_msg", "msg", "name"):
        return []
    return [value] if key in ("when", "that") else re.findall("{[{%].*?[%}]}", value, re.DOTALL)


def test_a_switch_that_is_a_text_is_off(value: Value) -> None:
    off = {"smtpmail_devices": "false", "smtpmail_imap": "no"}
    assert value("smtpmail_ports", **off) == [25]
    assert value("smtpmail_sockets", **off) == ["smtpmail-loopback.socket", "smtpmail.socket"]
