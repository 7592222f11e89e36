"""Postfix of the remote side with OpenDKIM and OpenDMARC in front: what they write above a message that comes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from conftest import install
from testinfra.host import Host

NAME = "remote.example.net"
PASSED = {"dkim": "pass", "spf": "pass", "dmarc": "pass"}

_OPENDKIM = f"""
Mode v
Socket inet:8891@127.0.0.1
UserID opendkim
PidFile /run/opendkim/opendkim.pid
Syslog yes
AuthservID {NAME}
AlwaysAddARHeader yes
ResolverConfiguration /etc/opendkim-unbound.conf
"""

# OpenDKIM looks up by libunbound, which begins at the roots unless it is told to ask the network's own server.
_RESOLVER = """
server:
  module-config: "iterator"
forward-zone:
  name: "."
  forward-addr: 192.0.2.20
"""

_OPENDMARC = f"""
Socket inet:8893@127.0.0.1
UserID opendmarc
PidFile /run/opendmarc/opendmarc.pid
Syslog true
AuthservID {NAME}
TrustedAuthservIDs {NAME}
PublicSuffixList /usr/share/publicsuffix/public_suffix_list.dat
SPFIgnoreResults true
SPFSelfValidate true
"""


@contextmanager
def in_front_of_postfix(remote: Host) -> Iterator[None]:
    """Installs both and lets Postfix ask them about all that comes by SMTP."""
    install(remote, "opendkim", "opendmarc", "dbconfig-no-thanks")
    for path, text in (
        ("/etc/opendkim.conf", _OPENDKIM),
        ("/etc/opendkim-unbound.conf", _RESOLVER),
        ("/etc/opendmarc.conf", _OPENDMARC),
    ):
        remote.check_output("printf %%s %s >%s", text, path)
    remote.check_output("systemctl restart opendkim opendmarc")
    remote.check_output(
        "postconf smtpd_milters=inet:127.0.0.1:8891,inet:127.0.0.1:8893 milter_default_action=tempfail"
        " && systemctl restart postfix"
    )
    yield
    remote.check_output("postconf -X smtpd_milters milter_default_action && systemctl restart postfix")


def results(remote: Host, path: str) -> dict[str, str]:
    """What both found of a message that Postfix stored: dkim, spf, dmarc."""
    header = remote.file(path).content_string.partition("\n\n")[0]
    fields = re.findall(rf"^Authentication-Results: {re.escape(NAME)};((?:.*\n[ \t])*.*)", header, re.MULTILINE)
    return dict(re.findall(r"(?:^|[;\s])(dkim|spf|dmarc)=(\w+)", "\n".join(fields)))
