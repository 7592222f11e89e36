"""The acceptance test of the project: a person with Thunderbird on the host, a person with another server."""

from __future__ import annotations

from conftest import CHECKOUT, HERE, SPOOL, hosts, new_subject, send_from_remote, the_message
from testinfra.host import Host

SCREENSHOT = CHECKOUT / "artefacts" / "thunderbird.png"


def test_thunderbird_writes_to_several_and_remote_writes_back(mail: Host, remote: Host) -> None:
    subject = new_subject()
    SCREENSHOT.unlink(missing_ok=True)
    recipients = "anna@dom.fr,erin@dom.fr,alice@example.net,carol@example.net"
    sent = hosts(
        "net", "mail", str(HERE.parent / "thunderbird-send"), recipients, subject, "Hello to you all", str(SCREENSHOT)
    )
    assert sent.returncode == 0, sent.stderr
    assert SCREENSHOT.stat().st_size > 10_000
    for host, folder in (
        (mail, f"{SPOOL}/anna"),
        (mail, f"{SPOOL}/erin"),
        (remote, "/home/alice/Maildir/new"),
        (remote, "/home/carol/Maildir/new"),
    ):
        content = host.file(the_message(host, folder, subject)).content_string
        assert "Hello to you all" in content
        assert "User-Agent: Mozilla Thunderbird" in content
        assert "Return-Path: <bob@dom.fr>" in content

    answer = new_subject()
    send_from_remote(remote, "bob@dom.fr", answer)
    path = the_message(mail, f"{SPOOL}/bob", answer)
    assert mail.file(f"{path}.status").content_string == "\\Recent\n"
    assert "Hello from afar." in mail.check_output("runuser -u bob -- cat %s", path)
