"""Mail that is believed: other programs verify what leaves, and what only claims to be somebody's is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import judge
import pytest
from conftest import SPOOL, eventually, install, new_subject, send_from_mail, send_from_remote, the_message
from testinfra.host import Host

UPDATE = "hmac-sha256:update.dom.fr:c210cG1haWwgdGVzdCBuZXR3b3JrLCBub3Qgc2VjcmV0ISE="


@pytest.fixture(scope="module", autouse=True)
def judges(remote: Host) -> Iterator[None]:
    install(remote, "python3-dkim")
    with judge.in_front_of_postfix(remote):
        yield


def verified(remote: Host, path: str) -> bool:
    """Whether dkimpy, which asks the network's DNS, believes a message that Postfix stored."""
    return bool(remote.run("dkimverify <%s", path).rc == 0)


def believed(remote: Host, path: str) -> bool:
    """Whether OpenDKIM and OpenDMARC wrote "pass" above a message when it came, three times, and dkimpy agrees."""
    return judge.results(remote, path) == judge.PASSED and verified(remote, path)


def selector(host: Host, path: str) -> str:
    signature = re.search(r"^DKIM-Signature:(?:.*\n[ \t])*.*\bs=([^;]*)", host.file(path).content_string, re.MULTILINE)
    assert signature
    return signature[1]


def signing(mail: Host) -> list[str]:
    keys = json.loads(mail.check_output("smtpmail dkim list dom.fr --json"))
    return [key["selector"] for key in keys if key["state"] == "signs"]


def test_what_leaves_is_signed_by_the_published_key(mail: Host, remote: Host) -> None:
    subject = new_subject()
    send_from_mail(mail, "alice@example.net", subject)
    path = the_message(remote, "/home/alice/Maildir/new", subject)
    assert believed(remote, path), remote.file(path).content_string
    assert [selector(remote, path)] == signing(mail)
    # The judges are no yes-men.
    remote.check_output("sed 's/Hello from near/Hello from afar/' %s >/tmp/changed", path)
    assert not verified(remote, "/tmp/changed")
    subject = new_subject()
    remote.check_output(
        "swaks --server 192.0.2.20 --from mallory@example.net --h-From bob@dom.fr --to alice@example.net --header %s",
        f"Subject: {subject}",
    )
    path = the_message(remote, "/home/alice/Maildir/new", subject)
    assert judge.results(remote, path) == {"dkim": "none", "spf": "pass", "dmarc": "fail"}


def test_a_notification_is_signed_too(mail: Host, remote: Host) -> None:
    subject = new_subject()
    send_from_mail(mail, "nosuch@example.net", subject, sender="carol@example.net")
    # The returned message's header is part of it.
    path = the_message(remote, "/home/carol/Maildir/new", subject)
    assert "Return-Path: <>" in remote.file(path).content_string
    assert believed(remote, path), remote.file(path).content_string


def test_what_comes_is_judged(mail: Host, remote: Host) -> None:
    subject = new_subject()
    send_from_remote(remote, "bob@dom.fr", subject)
    content = mail.file(the_message(mail, f"{SPOOL}/bob", subject)).content_string
    (result,) = re.findall(r"^Authentication-Results: mail\.dom\.fr;((?:.*\n[ \t])*.*)", content, re.MULTILINE)
    assert "spf=pass" in result


@pytest.fixture(scope="module")
def strict(remote: Host) -> Iterator[str]:
    """A domain whose owner says that nothing of it is to be taken that cannot be verified."""
    domain = "strict.example.net"
    command = "printf 'server 192.0.2.20\nupdate %%s\nsend\n' %s | nsupdate -y %s"
    remote.check_output(command, f'add _dmarc.{domain} 60 TXT "v=DMARC1; p=reject"', UPDATE)
    yield domain
    remote.check_output(command, f"delete _dmarc.{domain}", UPDATE)


def test_forged_mail_is_refused_with_the_reason(mail: Host, remote: Host, strict: str) -> None:
    subject = new_subject()
    sent = remote.run(
        "swaks --server 192.0.2.10 --from %s --h-From %s --to bob@dom.fr --header %s",
        f"mallory@{strict}", f"boss@{strict}", f"Subject: {subject}",
    )  # fmt: skip
    assert sent.rc != 0
    assert re.search(r"<\*\* 550 5\.7\.1 .*", sent.stdout), sent.stdout
    assert "DMARC" in sent.stdout
    assert strict in sent.stdout
    refused = mail.check_output("journalctl --unit smtpmail.service --output cat --since -1min")
    assert strict in refused


def test_a_key_is_replaced_under_traffic_and_every_signature_verifies(mail: Host, remote: Host) -> None:
    (old,) = signing(mail)
    folder = "/etc/smtpmail/dkim/dom.fr"
    rotate = "systemctl start smtpmail-rotate.service"
    mail.check_output(rotate)
    assert signing(mail) == [old], "it is young"
    mail.check_output("touch -d '200 days ago' %s", f"{folder}/{old}.pem")

    subjects = [new_subject() for _ in range(12)]

    def send() -> None:
        for subject in subjects:
            send_from_mail(mail, "carol@example.net", subject)

    with ThreadPoolExecutor() as pool:
        traffic = pool.submit(send)
        eventually(lambda: mail.run("pgrep swaks").rc == 0)
        mail.check_output(rotate)
        traffic.result(timeout=120)
    (new,) = signing(mail)
    assert new != old
    last = new_subject()
    send_from_mail(mail, "carol@example.net", last)
    used = []
    for subject in [*subjects, last]:
        path = the_message(remote, "/home/carol/Maildir/new", subject)
        assert believed(remote, path), remote.file(path).content_string
        used.append(selector(remote, path))
    assert used[-1] == new, "the server has read the new key"
    assert used == sorted(used, key=lambda name: name == new), "and does not go back"
    # What is on its way with the old one is verified until it has come.
    assert "p=MI" in remote.check_output("dig +short @192.0.2.20 %s TXT", f"{old}._domainkey.dom.fr")
    found = mail.check_output("find %s -type f -printf '%%u %%m\\n'", folder).splitlines()
    assert found == ["smtpmail 600"] * 2

    # Days later it is withdrawn.
    mail.check_output("touch -d '10 days ago' %s", f"{folder}/{old}.retired")
    mail.check_output(rotate)
    withdrawn = remote.check_output("dig +short @192.0.2.20 %s TXT", f"{old}._domainkey.dom.fr")
    assert withdrawn.endswith('p="'), withdrawn
    assert not mail.file(f"{folder}/{old}.retired").exists


def test_yesterdays_mail_is_summed_up_for_root(mail: Host) -> None:
    assert mail.service("smtpmail-report.timer").is_enabled

    def reports() -> set[str]:
        return set(mail.run("grep -rl --include='[0-9]*' '^Subject: Mail report' %s", f"{SPOOL}/bob").stdout.split())

    before = reports()
    mail.check_output("systemctl start smtpmail-report.service")
    found = eventually(lambda: reports() - before)
    assert isinstance(found, set)
    summary = mail.check_output("smtpmail report --since yesterday --until today").splitlines()
    content = mail.file(found.pop()).content_string
    assert summary[0] in content
    assert summary[-1] in content
