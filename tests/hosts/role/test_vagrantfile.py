"""What the Vagrantfile asks of Vagrant, without a machine: read by Ruby, with a Vagrant that only takes notes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import CHECKOUT, read

NETWORK = read(CHECKOUT / "vagrant" / "network.yml")
VAGRANTFILE = CHECKOUT / "Vagrantfile"


def load(**environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {name: os.environ[name] for name in os.environ if not name.startswith("SMTPMAIL_")}
    return subprocess.run(
        ["ruby", Path(__file__).with_name("vagrantfile.rb"), VAGRANTFILE],
        capture_output=True,
        text=True,
        env=surroundings | environment,
        check=False,
    )


def loaded(**environment: str) -> Any:
    result = load(**environment)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def asked(what: str, **environment: str) -> list[tuple[list[Any], dict[str, Any]]]:
    """Arguments and options of each time that it is asked for."""
    return [(arguments, options) for name, arguments, options in loaded(**environment)["asked"] if name == what]


@pytest.mark.parametrize(
    ("environment", "box"),
    [
        ({}, "debian/bookworm64"),
        ({"SMTPMAIL_DEBIAN": "13"}, "debian/trixie64"),
        ({"SMTPMAIL_DEBIAN": "13", "SMTPMAIL_BOX": "bento/debian-13"}, "bento/debian-13"),
    ],
)
def test_box(environment: dict[str, str], box: str) -> None:
    assert asked("vm.box=", **environment) == [([box], {})]


def test_another_debian_is_refused_in_one_line() -> None:
    result = load(SMTPMAIL_DEBIAN="11")
    assert result.returncode == 1
    assert result.stderr == "Vagrantfile: SMTPMAIL_DEBIAN=11: the network is made for Debian 12 or 13\n"


def test_the_resolver_comes_first() -> None:
    assert [arguments for arguments, _ in asked("vm.define")] == [["remote"], ["mail"]]


@pytest.mark.parametrize("name", ["mail", "remote"])
def test_a_machine_is_on_a_network_that_leads_nowhere(name: str) -> None:
    host = NETWORK[f"network_{name}"]
    assert asked(f"vm.define {name}.vm.hostname=") == [([host["name"]], {})]
    [(arguments, network)] = asked(f"vm.define {name}.vm.network")
    assert arguments == ["private_network"]
    assert network["ip"] == host["ipv4"]
    assert network["virtualbox__intnet"] == "smtpmail"
    assert network["libvirt__forward_mode"] == "veryisolated"
    assert network["mac"].endswith(host["ipv4"].rpartition(".")[2])
    [(folders, how)] = asked("vm.synced_folder")
    assert (folders[1], how) == ("/vagrant", {"disabled": True})


@pytest.mark.parametrize(
    ("name", "playbooks"),
    [
        ("remote", ["tests/hosts/playbooks/prepare.yml"]),
        ("mail", ["tests/hosts/playbooks/prepare.yml", "ansible/deploy.yml"]),
    ],
)
def test_a_machine_has_its_packages_before_it_joins_the_network_and_then_its_playbooks(
    name: str, playbooks: list[str]
) -> None:
    steps = asked(f"vm.define {name}.vm.provision")
    assert [arguments[0] for arguments, _ in steps] == ["supplies", "network", *playbooks]
    scripts = [options["path"] for _, options in steps if options["type"] == "shell"]
    assert scripts == ["vagrant/supplies.sh", "vagrant/network.sh"]
    host, resolver = NETWORK[f"network_{name}"], NETWORK["network_remote"]["ipv4"]
    [(_, network)] = asked(f"vm.define {name}.vm.network")
    assert steps[1][1]["args"] == [network["mac"], host["ipv4"], host["ipv6"], resolver]
    for playbook in playbooks:
        step = f"vm.define {name}.vm.provision {playbook}"
        assert asked(f"{step}.playbook=") == [([playbook], {})]
        assert asked(f"{step}.raw_arguments=") == [([["--inventory=vagrant/inventory", "--timeout=900"]], {})]
    for file in [*scripts, *playbooks, "vagrant/inventory"]:
        assert (CHECKOUT / file).exists(), file


def test_own_ansible_wins_and_comes_by_a_trigger_not_while_the_file_is_read() -> None:
    notes = loaded(PATH=f"/opt/old-ansible/bin:{os.environ['PATH']}")
    assert notes["path"].startswith(f"{CHECKOUT}/.cache/vagrant/ansible/bin:/opt/old-ansible/bin:")
    [trigger] = [arguments for name, arguments, _ in notes["asked"] if name == "trigger.before"]
    assert trigger == ["up", "provision", "reload"]
    [([run], _)] = asked(f"trigger.before {' '.join(trigger)}.run=")
    assert run == {"path": str(CHECKOUT / "vagrant" / "ansible")}
    assert os.access(run["path"], os.X_OK)


def test_what_can_be_chosen_is_said_at_its_head_and_nothing_else() -> None:
    head, _, rest = VAGRANTFILE.read_text().partition("require")
    said = set(re.findall(r"^# (SMTPMAIL_\w+)=", head, re.MULTILINE))
    # The inventory reads the third.
    assert said == set(re.findall(r'"(SMTPMAIL_\w+)"', rest)) | {"SMTPMAIL_WHEELHOUSE"}


@pytest.fixture
def computer(tmp_path: Path) -> Path:
    """A checkout of somebody, and programs of theirs in `bin`."""
    (tmp_path / "vagrant").mkdir()
    shutil.copy(CHECKOUT / "vagrant" / "ansible", tmp_path / "vagrant")
    (tmp_path / "bin").mkdir()
    return tmp_path


def install_ansible(computer: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Runs vagrant/ansible with a shell script in place of Python."""
    stand_in = computer / "bin" / "python3"
    stand_in.write_text(f"#!/bin/sh\n{python}\n")
    stand_in.chmod(0o755)
    return subprocess.run(
        [computer / "vagrant" / "ansible"],
        capture_output=True,
        text=True,
        env={"PATH": f"{computer}/bin:/usr/bin:/bin"},
        check=False,
    )


def test_a_python_that_is_too_old_is_said(computer: Path) -> None:
    result = install_ansible(computer, "exit 1")
    assert result.returncode == 1
    assert "python3 must be 3.11 or newer" in result.stderr
    assert not (computer / ".cache").exists()


def test_ansible_is_installed_once_and_a_half_installed_one_again(computer: Path) -> None:
    # python3 -c asks what it is, python3 -m venv --clear FOLDER makes an environment, whose pip may fail.
    pip = 'printf "#!/bin/sh\\n[ ! -e %s/offline ]\\n" "${0%/bin/*}" >"$4/bin/pip"; chmod 755 "$4/bin/pip"'
    made = f'[ "$1" = -c ] || {{ echo made >>"${{0%/bin/*}}/calls"; mkdir -p "$4/bin"; {pip}; }}'
    (computer / "offline").touch()
    assert install_ansible(computer, made).returncode != 0
    (computer / "offline").unlink()
    for _ in range(2):
        result = install_ansible(computer, made)
        assert result.returncode == 0, result.stderr
    assert (computer / "calls").read_text() == "made\n" * 2
    assert not (computer / ".cache" / "vagrant" / "ansible.lock").exists()
