"""The role as a role: what it says of itself, what each task must have."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.template import Templar, trust_as_template
from conftest import CHECKOUT, ROLE, read

TASKS = sorted((ROLE / "tasks").rglob("*.yml"))


def tasks(entries: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        yield entry
        for part in ("block", "rescue", "always"):
            yield from tasks(entry.get(part, []))


def all_tasks() -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in TASKS:
        for task in tasks(read(path)):
            yield path, task


def test_the_specification_has_the_defaults_that_hold() -> None:
    defaults = read(ROLE / "defaults" / "main.yml")
    options = read(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    assert options.keys() == defaults.keys()
    for name, option in options.items():
        assert option["description"]
        assert option.get("default", [] if option.get("required") else None) == defaults[name], name


def test_ansible_doc_shows_them() -> None:
    shown = json.loads(
        subprocess.run(
            ["ansible-doc", "--type", "role", "--roles-path", CHECKOUT / "ansible" / "roles", "--json", "smtpmail"],
            stdout=subprocess.PIPE, check=True,
        ).stdout
    )  # fmt: skip
    assert shown["smtpmail"]["entry_points"]["main"]["options"]["smtpmail_port"]["default"] == 25


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.name)
def test_installation_waits_for_others_that_install(path: Path) -> None:
    for task in tasks(read(path)):
        if "ansible.builtin.apt" in task:
            assert task["ansible.builtin.apt"]["lock_timeout"] == "{{ smtpmail_apt_patience }}", task["name"]


def test_facts_are_asked_for_by_their_only_name() -> None:
    """With inject_facts_as_vars off, ansible_distribution and its like do not exist."""
    allowed = ("ansible_facts", "ansible_check_mode", "ansible_managed", "ansible_version", "ansible_playbook_python",
               "ansible_run_tags", "ansible_failed_task", "ansible_failed_result", "ansible_play_hosts",
               "ansible_host")  # fmt: skip
    for path in [*TASKS, *ROLE.glob("templates/*"), *ROLE.glob("vars/*"), *ROLE.glob("defaults/*")]:
        for word in path.read_text().replace("ansible_facts.getent", "").split("ansible_")[1:]:
            assert any(("ansible_" + word).startswith(name) for name in allowed), f"{path.name}: ansible_{word[:20]}"


def test_secrets_are_not_logged() -> None:
    options = read(ROLE / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
    secrets = [name for name in options if name.endswith(("_secret", "_password"))]
    assert len(secrets) == 2
    assert all(options[name]["no_log"] for name in secrets)
    for path, task in all_tasks():
        if "block" not in task and any(name in yaml.safe_dump(task) for name in [*secrets, "smtpmail_key_file"]):
            is_check = "ansible.builtin.assert" in task
            assert task.get("no_log") or is_check, f"{path.name}: {task['name']}"


def test_the_example_reaches_a_host_that_dns_does_not_know_yet() -> None:
    hosts = read(CHECKOUT / "ansible" / "inventory.example.yml")["smtpmail"]["hosts"]
    ((name, variables),) = hosts.items()
    assert {"ansible_host", "ansible_user", "smtpmail_hostname"} <= variables.keys()
    assert variables["smtpmail_hostname"] != name


OLD = """
import sys, ansible.release
ansible.release.__version__ = "2.14.18"
from ansible.cli.playbook import main
main(sys.argv)
"""


def test_an_ansible_that_is_too_old_is_refused_before_anything_else(tmp_path: Path) -> None:
    inventory = tmp_path / "inventory.yml"
    host = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": sys.executable}
    wanted = {"smtpmail_domains": ["example.org"], "smtpmail_users": ["bob"]}
    inventory.write_text(yaml.safe_dump({"smtpmail": {"hosts": {"here": host}, "vars": wanted}}))
    result = subprocess.run(
        [sys.executable, "-c", OLD, "-i", inventory, CHECKOUT / "ansible" / "deploy.yml"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_GATHERING": "explicit"},
    )  # fmt: skip
    assert result.returncode != 0
    assert "This is ansible-core 2.14.18; the role needs 2.16 or newer." in " ".join(result.stdout.split())
    assert "changed=0" in result.stdout


SYSTEMS = [("Debian", "12", True), ("Debian", "13", True), ("Debian", "11", False), ("Ubuntu", "24", False)]


@pytest.mark.parametrize(("system", "version", "taken"), SYSTEMS)
def test_other_systems_are_refused_in_a_sentence(
    templar: Callable[..., Templar], system: str, version: str, taken: bool
) -> None:
    (task,) = (task for task in read(ROLE / "tasks" / "preflight.yml") if task["name"].startswith("Require a Debian"))
    found = {"distribution": system, "distribution_major_version": version, "distribution_version": version}
    fill = templar(inventory_hostname="mail", ansible_facts=found).template
    judgement = task["ansible.builtin.assert"]
    assert fill(trust_as_template("{{ " + judgement["that"] + " }}")) is taken
    assert f"mail runs {system} {version}; this role is for Debian" in fill(trust_as_template(judgement["fail_msg"]))


# -- tried on hosts


def test_molecule_finds_the_scenarios_of_the_collection() -> None:
    collection = CHECKOUT / "ansible"
    listed = subprocess.run(
        ["molecule", "list", "--format", "plain"], cwd=collection, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    found = {words[3] for words in map(str.split, listed.splitlines()) if words[2:3] == ["ansible"]}
    assert found == {path.parent.name for path in collection.glob("extensions/molecule/*/molecule.yml")}
    runner = (CHECKOUT / "tests" / "hosts" / "run").read_text()
    run = re.findall(r"scenarios=\(([a-z0-9 ]+)\)", runner)
    assert sorted(found) == sorted(" ".join(run).split()), "each is run, with each change or at night"


# -- installed elsewhere


def run(*command: str | Path, **environment: str) -> str:
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", **environment},
    ).stdout  # fmt: skip


def test_the_collection_is_built_and_installed_with_the_program_in_it(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    shutil.copytree(CHECKOUT / "ansible", checkout / "ansible", symlinks=True)
    (checkout / "smtpmail").mkdir()
    shutil.copy(CHECKOUT / "smtpmail" / "__init__.py", checkout / "smtpmail")
    packer = checkout / "ansible" / "wheelhouse"
    packer.write_text('#!/bin/sh\nmkdir -p "$1" && touch "$1/requirements.lock" "$1/smtpmail-0.1.0-py3-none-any.whl"\n')
    run(checkout / "ansible" / "collection", tmp_path / "dist")
    (tarball,) = (tmp_path / "dist").glob("smtpmail-server-*.tar.gz")
    run("ansible-galaxy", "collection", "install", "--offline", "-p", tmp_path / "collections", tarball)
    role = tmp_path / "collections" / "ansible_collections" / "smtpmail" / "server" / "roles" / "smtpmail"
    assert (role / "files" / "wheels" / "requirements.lock").exists()
    paths = {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections")}
    assert "smtpmail_hostname" in run("ansible-doc", "--type", "role", "smtpmail.server.smtpmail", **paths)
    for playbook in ("deploy", "rollback"):
        run("ansible-playbook", "-i", "smtpmail,", "--syntax-check", f"smtpmail.server.{playbook}", **paths)
    assert not (role.parents[1] / "extensions").exists(), "the scenarios need the checkout"


def test_the_role_is_installed_from_git(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(CHECKOUT / "ansible", repository / "ansible", symlinks=True)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.net")
    run("git", "init", "-q", "-b", "main", repository)
    run("git", "-C", repository, "add", "-A")
    run("git", "-C", repository, *identity, "commit", "-q", "-m", "all")
    run("ansible-galaxy", "role", "install", "-p", tmp_path / "roles", f"git+file://{repository},main,smtpmail")
    assert (tmp_path / "roles" / "smtpmail" / "tasks" / "main.yml").exists()
    assert (tmp_path / "roles" / "smtpmail" / "files" / "mailboxes.py").exists()


# -- the wheels


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose Python packs nothing: what is asked of an index is seen in `asked`."""
    folder = tmp_path / "checkout"
    (folder / "ansible").mkdir(parents=True)
    for name in ("wheelhouse", "build.lock"):
        shutil.copy(CHECKOUT / "ansible" / name, folder / "ansible" / name)
    for name in ("pyproject.toml", "requirements.lock", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder / name)
    (folder / "smtpmail").mkdir()
    (folder / "smtpmail" / "__init__.py").write_text('__version__ = "1"\n')
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
echo "$*" >>{tmp_path}/asked
while [ $# -gt 0 ]; do
    case $1 in --wheel-dir) mkdir -p "$2"; touch "$2/smtpmail-1-py3-none-any.whl" ;; esac
    shift
done
"""
    )
    python.chmod(0o755)
    return folder


@pytest.fixture
def pack(checkout: Path, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(target: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [checkout / "ansible" / "wheelhouse", target], capture_output=True, text=True, check=False,
            env={**os.environ, "PYTHON": str(tmp_path / "python")},
        )  # fmt: skip

    return call


Pack = Callable[[Path], "subprocess.CompletedProcess[str]"]


def test_wheels_are_packed_once_and_again_when_the_program_changes(checkout: Path, pack: Pack, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    assert pack(tmp_path / "wheels").returncode == 0
    assert "--require-hashes" in asked.read_text()
    asked.unlink()
    assert pack(tmp_path / "wheels").returncode == 0
    assert not asked.exists(), "no index is asked for what is there"
    (checkout / "smtpmail" / "__init__.py").write_text('__version__ = "2"\n')
    assert pack(tmp_path / "wheels").returncode == 0
    assert asked.exists()


def test_the_build_backend_is_pinned(checkout: Path, pack: Pack, tmp_path: Path) -> None:
    pack(tmp_path / "wheels")
    install, wheel, *_ = (tmp_path / "asked").read_text().splitlines()
    assert "--require-hashes" in install
    assert "build.lock" in install
    assert "--no-build-isolation" in wheel


def test_a_folder_of_somebody_else_is_left_alone(pack: Pack, tmp_path: Path) -> None:
    target = tmp_path / "photos"
    target.mkdir()
    (target / "cat.jpg").write_text("cat")
    result = pack(target)
    assert result.returncode == 1
    assert "holds cat.jpg, which is not of this script" in result.stderr
    assert [path.name for path in target.iterdir()] == ["cat.jpg"]
