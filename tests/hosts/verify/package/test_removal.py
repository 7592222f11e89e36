"""What a removal leaves. Last: nothing is there afterwards."""

from __future__ import annotations

from testinfra.host import Host


def test_removal_and_purge_leave_mail_and_queue(mail: Host) -> None:
    before = mail.check_output("find /var/mail/bob /var/lib/smtpmail -type f | sort")
    for how in ("remove", "purge"):
        mail.check_output(f"DEBIAN_FRONTEND=noninteractive apt-get {how} -y -qq smtpmail")
        assert mail.check_output("find /var/mail/bob /var/lib/smtpmail -type f | sort") == before
    assert mail.run("nc -z 127.0.0.1 25").rc != 0
    assert not mail.file("/usr/sbin/sendmail").exists
