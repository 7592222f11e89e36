"""Mail comes, mail leaves, and its reader can read it."""

from __future__ import annotations

import re

import pytest
from conftest import SPOOL, messages, new_subject, send_from_mail, send_from_remote, the_message
from testinfra.host import Host


def test_mail_from_remote_arrives_through_mx(mail: Host, remote: Host) -> None:
    subject = new_subject()
    send_from_remote(remote, "bob@dom.fr", subject)
    path = the_message(mail, f"{SPOOL}/bob", subject)
    assert re.fullmatch(rf"{SPOOL}/bob/[1-9][0-9]*", path)
    assert mail.file(f"{path}.status").content_string == "\\Recent\n"
    content = mail.file(path).content_string
    assert "\r" not in content
    assert content.startswith("Return-Path: <alice@example.net>\nDelivered-To: bob@dom.fr\n")
    # Postfix takes STARTTLS when it is offered.
    assert re.search(r"^Received: from remote\.example\.net .*?with ESMTPS ", content, re.DOTALL | re.MULTILINE)


def test_account_reads_flags_and_deletes_its_mail(mail: Host, remote: Host) -> None:
    subject = new_subject()
    send_from_remote(remote, "bob@dom.fr", subject)
    path = the_message(mail, f"{SPOOL}/bob", subject)
    folder = mail.file(f"{SPOOL}/bob")
    assert folder.user == "bob"
    assert "Hello from afar." in mail.check_output("runuser -u bob -- cat %s", path)
    assert mail.run("runuser -u anna -- cat %s", path).rc != 0, "nobody else may"
    assert mail.run("runuser -u nobody -- ls %s", f"{SPOOL}/bob").rc != 0, "nobody else may"
    # mutt opens the folder, finds the message by its subject, shows it.
    keys = f"<limit>~s {subject}<enter><pipe-message>cat >/home/bob/shown<enter><quit>"
    # A terminal without a size is none to newer ncurses.
    # A folder that is there: mutt would ask whether to make it, and take the keys for the answer.
    settings = "set folder=/home/bob quit=yes wait_key=no pipe_decode=yes"
    mutt = f"stty rows 24 cols 80; mutt -n -R -f {SPOOL}/bob -e '{settings}' -e 'push \"{keys}\"'"
    mail.check_output("runuser -u bob -- env TERM=xterm HOME=/home/bob script --quiet --command %s /dev/null", mutt)
    shown = mail.file("/home/bob/shown").content_string
    assert f"Subject: {subject}" in shown
    assert "Hello from afar." in shown
    mail.check_output("runuser -u bob -- sh -c 'echo \\\\Seen >%s.status && rm %s %s.status'", path, path, path)
    again = new_subject()
    send_from_remote(remote, "bob@dom.fr", again)
    next_path = the_message(mail, f"{SPOOL}/bob", again)
    assert int(next_path.rsplit("/", 1)[1]) == int(path.rsplit("/", 1)[1]) + 1, "a number is never used again"


def test_mail_for_users_without_an_account_is_kept_by_the_service(mail: Host, remote: Host) -> None:
    subject = new_subject()
    send_from_remote(remote, "erin@dom.fr", subject)
    path = the_message(mail, f"{SPOOL}/erin", subject)
    folder = mail.file(f"{SPOOL}/erin")
    assert (folder.user, folder.mode & 0o777) == ("smtpmail", 0o700)
    assert mail.file(path).user == "smtpmail"
    assert mail.run("runuser -u bob -- cat %s", path).rc != 0


@pytest.mark.parametrize("server", ["127.0.0.1", "::1"])
def test_mail_for_several_here_and_there(mail: Host, remote: Host, server: str) -> None:
    subject = new_subject()
    mail.check_output(
        "swaks --silent 2 --server %s --from bob@dom.fr --to %s --header %s",
        f"[{server}]" if ":" in server else server,
        "alice@example.net,carol@example.net,bob@dom.fr,anna@dom.fr", f"Subject: {subject}",
    )  # fmt: skip
    for user in ("bob", "anna"):
        the_message(mail, f"{SPOOL}/{user}", subject)
    for user in ("alice", "carol"):
        path = the_message(remote, f"/home/{user}/Maildir/new", subject)
        content = remote.file(path).content_string
        assert "Return-Path: <bob@dom.fr>" in content
        hop = re.search(r"^Received: from mail\.dom\.fr .*?;", content, re.DOTALL | re.MULTILINE)
        assert hop, content
        assert "using TLSv1.3" in hop[0], "STARTTLS was offered and must be used"


def test_refused_recipient_comes_back_as_a_bounce(mail: Host, remote: Host) -> None:
    subject = new_subject()
    send_from_mail(mail, "nosuch@example.net", subject, sender="anna@dom.fr")
    # The returned message's header is part of the bounce.
    path = the_message(mail, f"{SPOOL}/anna", subject)
    content = mail.file(path).content_string
    assert content.startswith("Return-Path: <>\n")
    assert "Status: 5.1.1" in content
    assert not messages(remote, "/home", subject)


def test_mail_to_root_reaches_the_first_user(mail: Host) -> None:
    subject = new_subject()
    mail.check_output(
        "printf 'Subject: %%s\n\nA disk has failed.\n' %s | runuser -u nobody -- /usr/sbin/sendmail root", subject
    )
    assert "A disk has failed." in mail.file(the_message(mail, f"{SPOOL}/bob", subject)).content_string
