"""Two mail hosts by the role, one set of mailboxes: one loses its power under load, the other one carries on."""

from __future__ import annotations

import collections
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import eventually, get_host, hosts, new_subject, the_message
from testinfra.host import Host

SPOOL = "/srv/mail"
BRICK = "/var/lib/bricks/mail"
ADDRESSES = {"mx1": "192.0.2.11", "mx2": "192.0.2.12", "arbiter": "192.0.2.13"}
STREAM = (Path(__file__).parent / "stream.py").read_text()
IN_FLIGHT = 20
"""Messages that Postfix sends one host at once (smtp_destination_concurrency_limit)."""


@pytest.fixture(scope="module")
def mx1() -> Host:
    return get_host("mx1")


@pytest.fixture(scope="module")
def mx2() -> Host:
    return get_host("mx2")


@pytest.fixture(scope="module")
def mail_hosts(mx1: Host, mx2: Host) -> list[Host]:
    return [mx1, mx2]


def script(*arguments: str) -> None:
    done = hosts(*arguments)
    assert done.returncode == 0, done.stderr


# -- as the role made them


def test_the_volume_is_mounted_before_the_service(mail_hosts: list[Host]) -> None:
    for host in mail_hosts:
        assert host.check_output("findmnt --noheadings --output FSTYPE --mountpoint %s", SPOOL) == "fuse.glusterfs"
        assert host.service("smtpmail.service").is_running
        units = host.check_output("systemctl show --property Requires,After smtpmail.service").splitlines()
        assert all("srv-mail.mount" in line for line in units), units
        assert "smtpmail-volume.service" in host.check_output("systemctl show --property After srv-mail.mount")
        assert "glusterd.service" in host.check_output("systemctl show --property After smtpmail-volume.service")
        # What is written while nothing is mounted there would be hidden by the mount.
        host.check_output("mkdir -p /run/below && mount --bind / /run/below")
        try:
            assert host.file(f"/run/below{SPOOL}").mode == 0
        finally:
            host.check_output("umount /run/below")


def test_the_program_finds_nothing_wrong(mail_hosts: list[Host]) -> None:
    """Root sees the quorum of the volume, too."""
    for host in mail_hosts:
        result = host.run("smtpmail check")
        assert result.rc == 0, result.stderr
        assert "quorum" not in result.stderr and "volume" not in result.stderr, result.stderr


def test_both_are_named_in_the_dns(remote: Host) -> None:
    exchangers = remote.check_output("dig +short MX dom.fr").splitlines()
    assert sorted(exchangers) == ["10 mx1.dom.fr.", "10 mx2.dom.fr."]
    for name in ("mx1", "mx2"):
        assert remote.check_output("dig +short A %s.dom.fr", name) == ADDRESSES[name]
    (policy,) = [line for line in remote.check_output("dig +short TXT dom.fr").splitlines() if "v=spf1" in line]
    assert policy.startswith('"v=spf1 mx '), "all of them may send"


def test_they_sign_with_one_key_and_one_of_them_replaces_it(mail_hosts: list[Host], remote: Host) -> None:
    keys = [json.loads(host.check_output("smtpmail dkim list --json")) for host in mail_hosts]
    assert keys[0] == keys[1] and [key["state"] for key in keys[0]] == ["signs"]
    published = remote.check_output("dig +short TXT %s._domainkey.dom.fr", keys[0][0]["selector"])
    shown = mail_hosts[0].check_output("smtpmail dkim show dom.fr")
    assert published.replace('" "', "").strip('"') in shown.replace('" "', "")
    assert [host.service("smtpmail-rotate.timer").is_running for host in mail_hosts] == [True, False]


def test_the_volume_is_reached_by_its_hosts_alone(mx1: Host, remote: Host) -> None:
    """With nftables on mx1, ufw on mx2, firewalld on the arbiter. Bricks listen on any port."""
    status = mx1.check_output("gluster volume status mail")
    ports = dict(re.findall(rf"^Brick (\S+):{BRICK} +([0-9]+) ", status, re.MULTILINE))
    assert ports.keys() == set(ADDRESSES.values()), status
    for name, address in ADDRESSES.items():
        for port in ("24007", ports[address]):
            assert remote.run("nc -z -w 2 %s %s", address, port).rc != 0, f"{name}: {port} is open to the world"
            for other in ADDRESSES:
                reached = get_host(other).run("nc -z -w 2 %s %s", address, port).rc == 0
                assert reached, f"{other} does not reach {port} of {name}"


def test_devices_are_known_to_both(mail_hosts: list[Host]) -> None:
    """Root adds one, the service must be able to read it: it would not start otherwise."""
    mail_hosts[0].check_output("smtpmail device add bob phone")
    for host in mail_hosts:
        assert "phone" in host.check_output("runuser -u smtpmail -- smtpmail device list bob")


def test_its_account_reads_a_mailbox_on_either(mail_hosts: list[Host], remote: Host) -> None:
    subject = new_subject()
    remote.check_output(
        "swaks --silent 2 --server %s --from alice@example.net --to bob@dom.fr --header %s",
        ADDRESSES["mx1"], f"Subject: {subject}",
    )  # fmt: skip
    for host in mail_hosts:
        path = the_message(host, f"{SPOOL}/bob", subject)
        assert subject in host.check_output("runuser -u bob -- cat %s", path)
        assert host.run("runuser -u anna -- cat %s", path).rc != 0


# -- one of them loses its power


def numbers_in(host: Host, folder: str, subject: str) -> list[tuple[int, int, str]]:
    """Of the messages of a stream: number in the mailbox, in the stream, and which host took it."""
    found = host.run("grep -l --include='[0-9]*' -rx %s %s", f"Subject: {subject}", folder).stdout.split()
    if not found:
        return []
    told = host.check_output("cd %s && grep -roE '^X-Number: [0-9]+|by mx[12]\\.dom\\.fr' --include='[0-9]*' .", folder)
    wanted = {Path(name).name for name in found}
    fields: dict[str, list[str]] = collections.defaultdict(list)
    for line in told.splitlines():
        path, _, text = line.partition(":")
        name = Path(path).name
        if name in wanted:
            fields[name].append(text)
    result = []
    for name, texts in fields.items():
        (number,) = [text.split()[1] for text in texts if text.startswith("X-Number")]
        (taker,) = [text.split()[1] for text in texts if text.startswith("by ")]
        result.append((int(name), int(number), taker))
    return sorted(result)


def by(found: list[tuple[int, int, str]], name: str) -> int:
    return sum(taker == f"{name}.dom.fr" for _, _, taker in found)


def healed(host: Host) -> bool:
    counts = re.findall(r"^Number of entries: (\S+)$", host.run("gluster volume heal mail info").stdout, re.MULTILINE)
    return len(counts) == len(ADDRESSES) and set(counts) == {"0"}


def test_one_loses_its_power_and_the_other_carries_on(mx1: Host, mx2: Host, remote: Host) -> None:
    """Nothing that was acknowledged is lost, no number is given twice or left out; both disks have all in the end."""
    subject = new_subject()
    stop = f"/tmp/stop-{subject}"

    def found() -> list[tuple[int, int, str]]:
        """As they come, beneath the file system: over the volume each look at hundreds of files holds up the mail."""
        return numbers_in(mx2, f"{BRICK}/bob", subject)

    with ThreadPoolExecutor() as pool:
        stream = pool.submit(remote.run, "python3 -c %s %s %s", STREAM, subject, stop)
        try:
            eventually(lambda: by(found(), "mx1") > 5 and by(found(), "mx2") > 5, 90)
            script("off", "mx1")
            before = len(found())
            eventually(lambda: len(found()) > before + 20, 120)
            script("on", "mx1")
            eventually(lambda: mx1.run("findmnt --mountpoint %s", SPOOL).rc == 0, 180)
            eventually(lambda: mx1.service("smtpmail.service").is_running, 60)
            taken = by(found(), "mx1")
            eventually(lambda: by(found(), "mx1") > taken + 3, 120)
        finally:
            remote.check_output("touch %s", stop)
        result = stream.result(timeout=120)
    assert result.rc == 0, result.stderr
    sent = int(result.stdout)
    remote.check_output("postqueue -f")
    eventually(lambda: "Mail queue is empty" in remote.check_output("postqueue -p"), 180)
    eventually(lambda: healed(mx2), 120)

    stored = numbers_in(mx2, f"{SPOOL}/bob", subject)
    assert {number for _, number, _ in stored} == set(range(sent)), "lost"
    doubled = len(stored) - sent
    print(f"{sent} sent, {len(stored)} stored, {doubled} of them twice, {by(stored, 'mx1')} by mx1")
    assert doubled <= IN_FLIGHT, "only what had lost its 250 comes again"
    names = [int(name) for name in mx2.check_output("ls %s/bob", SPOOL).split() if name.isdigit()]
    assert sorted(names) == list(range(1, len(names) + 1)), "no number is left out"

    # Beneath the file system: each message is on both disks, whole, with its state.
    sums = "cd %s/bob && sha256sum [0-9]*"
    disks = [host.check_output(sums, BRICK) for host in (mx1, mx2)]
    assert disks[0] == disks[1] == mx1.check_output(sums, SPOOL)
    assert len(disks[0].splitlines()) == 2 * len(names)


def test_the_queue_of_a_host_without_power_is_adopted(mx1: Host, mx2: Host, remote: Host) -> None:
    """What it had taken to send on leaves from the other one, once; when it is back, it works on an empty queue."""
    subject = new_subject()
    remote.check_output("systemctl stop postfix")
    try:
        mx1.check_output(
            "swaks --silent 2 --server 127.0.0.1 --from bob@dom.fr --to alice@example.net --header %s",
            f"Subject: {subject}",
        )
        eventually(lambda: "alice@example.net" in mx1.check_output("smtpmail queue list"))
        living = mx2.run("smtpmail queue adopt %s/.queue.mx1", SPOOL)
        assert living.rc == 2 and "another server works on the queue" in living.stderr
        script("off", "mx1")
        eventually(lambda: mx2.run("smtpmail queue adopt %s/.queue.mx1", SPOOL).rc == 0, 90)
        assert "alice@example.net" in mx2.check_output("smtpmail queue list")
    finally:
        remote.check_output("systemctl start postfix")
        script("on", "mx1")
    mx2.check_output("smtpmail queue retry --all")
    path = the_message(remote, "/home/alice/Maildir/new", subject, 60)
    assert "from mx2.dom.fr" in remote.file(path).content_string
    eventually(lambda: mx1.service("smtpmail.service").is_running, 180)
    assert "alice" not in mx1.check_output("smtpmail queue list")


def test_both_start_anew_together(mx1: Host, mx2: Host, remote: Host) -> None:
    """A power cut of the whole house: the services wait for the volume, and mail comes again."""
    for name in ADDRESSES:
        script("off", name)
    for name in ADDRESSES:
        script("on", name)
    for host in (mx1, mx2):
        eventually(lambda: host.service("smtpmail.service").is_running, 240)  # noqa: B023
    for name in ("mx1", "mx2"):
        subject = new_subject()
        sent = "swaks --silent 2 --server %s --from alice@example.net --to anna@dom.fr --header %s"
        eventually(lambda: remote.run(sent, ADDRESSES[name], f"Subject: {subject}").rc == 0, 60)  # noqa: B023
        for host in (mx1, mx2):
            the_message(host, f"{SPOOL}/anna", subject)
