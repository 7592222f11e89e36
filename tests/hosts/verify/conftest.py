"""The test hosts as testinfra sees them, and what the tests do with them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import testinfra
from testinfra.host import Host

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parents[2]
# The same tests serve other hosts that are made by the same playbooks.
INVENTORY = Path(os.environ.get("SMTPMAIL_INVENTORY", HERE.parent / "inventory"))
PATIENCE = float(os.environ.get("SMTPMAIL_PATIENCE", "1"))
"""How many times as long as on the light hosts all may take: more than once on emulated machines."""
SPOOL = "/var/spool/mail"
WHEELHOUSES = CHECKOUT / ".cache" / "wheelhouses"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What holds of a host as it was made comes before its upkeep."""
    items.sort(key=lambda item: item.path.parent.name != "every")


def get_host(name: str) -> Host:
    return testinfra.get_host(f"ansible://{name}", ansible_inventory=str(INVENTORY))


@pytest.fixture(scope="session")
def mail() -> Host:
    """The host under test."""
    return get_host("mail")


@pytest.fixture(scope="session")
def remote() -> Host:
    """Postfix for example.net, resolver, primary DNS server."""
    return get_host("remote")


def hosts(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Calls the script that holds the hosts."""
    return subprocess.run([HERE.parent / "hosts", *arguments], capture_output=True, text=True, timeout=120, check=False)


def deploy(
    playbook: str = "deploy.yml",
    *,
    options: tuple[str, ...] = (),
    settings: dict[str, str] | None = None,
    **variables: object,
) -> subprocess.CompletedProcess[str]:
    """Runs a playbook as an operator does, with variables of its own; what it prints is in `stdout`, errors too.

    `options` are those of ansible-playbook, `settings` of Ansible, by the names of its environment.
    """
    return subprocess.run(
        [
            "ansible-playbook", "-i", INVENTORY, CHECKOUT / "ansible" / playbook,
            "--extra-vars", json.dumps(variables), *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
        env={
            **os.environ,
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_FORCE_COLOR": "0",
            "ANSIBLE_CALLBACK_RESULT_FORMAT": "yaml",
            **(settings or {}),
        },
    )  # fmt: skip


def deployed(playbook: str = "deploy.yml", **variables: Any) -> str:
    """A deployment that must succeed, and what it printed."""
    result = deploy(playbook, **variables)
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


def with_tags(*tags: str) -> tuple[str, ...]:
    return ("--tags", ",".join(tags))


def errors_of(output: str) -> list[str]:
    """The errors that a play printed, each in one line."""
    found = re.findall(r"^\[ERROR\]: Task failed: (.*?)^Origin:", output, re.DOTALL | re.MULTILINE)
    return [" ".join(error.split()) for error in found]


def the_error(output: str) -> str:
    """The one error that a play ended with."""
    errors = errors_of(output)
    assert len(errors) == 1, output[-3000:]
    return errors[0]


def eventually(what: Callable[[], object], seconds: float = 20) -> object:
    """The first true value of `what`, asked until then; fails after so many seconds, times PATIENCE."""
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.2)
    return value


def new_subject() -> str:
    """A subject that no other message has."""
    return f"test-{uuid.uuid4().hex[:12]}"


def messages(host: Host, folder: str, subject: str) -> list[str]:
    """The files under a mailbox's folder that hold the message with that subject."""
    found = host.run("grep -rlx --include='[0-9]*' %s %s", f"Subject: {subject}", folder)
    return sorted(found.stdout.split())


def the_message(host: Host, folder: str, subject: str, seconds: float = 30) -> str:
    """The one file under the folder that holds the message; waits for it."""
    found = eventually(lambda: messages(host, folder, subject), seconds)
    assert isinstance(found, list)
    assert len(found) == 1, found
    return str(found[0])


def install(host: Host, *packages: str) -> None:
    """What some tests alone look with; the images have it in their apt cache."""
    host.check_output(f"DEBIAN_FRONTEND=noninteractive apt-get install -y -qq {' '.join(packages)}")


def send_from_remote(remote: Host, recipient: str, subject: str, sender: str = "alice") -> None:
    """A person of the remote domain writes with Postfix."""
    remote.check_output(
        "printf 'To: %%s\\nSubject: %%s\\n\\nHello from afar.\\n' %s %s | runuser -u %s -- /usr/sbin/sendmail %s",
        recipient, subject, sender, recipient,
    )  # fmt: skip


def send_from_mail(mail: Host, recipients: str, subject: str, sender: str = "bob@dom.fr") -> None:
    """A program of the host writes through the loopback listener."""
    mail.check_output(
        "swaks --silent 2 --server 127.0.0.1 --from %s --to %s --header %s --body 'Hello from near.'",
        sender, recipients, f"Subject: {subject}",
    )  # fmt: skip


def main_pid(mail: Host) -> int:
    return int(mail.check_output("systemctl show --value --property MainPID smtpmail.service"))


def release(mail: Host) -> str:
    """The version that runs, said by the process's own log."""
    lines = mail.check_output("journalctl --unit smtpmail.service --output cat _TRANSPORT=stdout").splitlines()
    # A version that fails says so in plain words.
    events = [json.loads(line) for line in lines if line.startswith("{")]
    started = [event for event in events if event["event"] == "server.started"]
    return str(started[-1]["version"])
