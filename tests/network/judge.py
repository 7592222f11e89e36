"""A host whose Postfix judges what comes by OpenDKIM and OpenDMARC, refuses what DMARC forbids, and signs what leaves.

Beside them rspamd and Mail::DKIM (Perl), which are asked about messages that have come.
"""

from __future__ import annotations

import re
from pathlib import Path

from .lab import LabError, wait_until
from .mailservers import _MAIL, Postfix

_OPENDKIM = """
Mode sv
Socket inet:8891@127.0.0.1
UserID root
Syslog yes
Canonicalization relaxed/simple
Domain judge.test
Selector s
KeyFile /etc/lab/s.private
RequireSafeKeys no
OversignHeaders From
InternalHosts 127.0.0.1
AuthservID mx.judge.test
AlwaysAddARHeader yes
ResolverConfiguration /etc/lab/unbound.conf
"""

# OpenDKIM looks up by libunbound, which by itself knows that there is no .test (RFC 6761).
_RESOLVER = """
server:
  module-config: "iterator"
  local-zone: "test." nodefault
forward-zone:
  name: "."
  forward-addr: 192.0.2.53
"""

_OPENDMARC = """
AuthservID mx.judge.test
TrustedAuthservIDs mx.judge.test
Socket inet:8893@127.0.0.1
UserID root
RejectFailures true
SPFIgnoreResults true
SPFSelfValidate true
IgnoreHosts /etc/lab/ignored
PublicSuffixList /etc/lab/top-level
Syslog true
"""

_RSPAMD = """
options {
  pidfile = "/run/rspamd.pid";
  tempdir = "/run";
  filters = "dkim";
  disable_hyperscan = true;
  url_tld = "/etc/lab/top-level";  # the usual list takes half a minute to compile
  dns { nameserver = ["192.0.2.53:53:1"]; timeout = 5s; }
}
logging { type = "console"; level = "notice"; }
worker "normal" { bind_socket = "127.0.0.1:11333"; count = 1; }
modules { path = "/etc/lab/modules/"; }
dkim { dkim_cache_size = 1; }
"""


class Judge(Postfix):
    """Its domain is judge.test."""

    name = "judge"

    def __init__(self, host) -> None:  # type: ignore[no-untyped-def]
        super().__init__(host)
        self.domains = [self.domain]

    def configure(self) -> None:
        super().configure()
        main = self.host.path("/etc/postfix/main.cf")
        milters = "inet:127.0.0.1:8891, inet:127.0.0.1:8893"
        main.write_text(main.read_text() + f"smtpd_milters = {milters}\nmilter_default_action = tempfail\n")
        self.host.write("/etc/lab/opendkim.conf", _OPENDKIM)
        self.host.write("/etc/lab/unbound.conf", _RESOLVER)
        self.host.write("/etc/lab/opendmarc.conf", _OPENDMARC)
        self.host.write("/etc/lab/ignored", "127.0.0.1\n")
        self.host.write("/etc/lab/rspamd.conf", _RSPAMD)
        self.host.write("/etc/lab/top-level", "test\n")
        self.host.path("/etc/lab/modules").mkdir()
        self.host.run("opendkim-genkey", "-b", "2048", "-d", self.domain, "-s", "s", "-D", "/etc/lab")

    def launch(self) -> None:
        self.host.daemon("opendkim", "-f", "-x", "/etc/lab/opendkim.conf", port=8891)
        self.host.daemon("opendmarc", "-f", "-c", "/etc/lab/opendmarc.conf", port=8893)
        with self.host.path("/run/rspamd.out").open("wb") as output:
            command = ("rspamd", "-f", "-c", "/etc/lab/rspamd.conf", "-u", "root", "-g", "root", "-i")
            self.host.spawn(*command, stdout=output, stderr=output)
        super().launch()

    def key_record(self) -> str:
        """The value of the TXT record of its key, in zone-file form."""
        return " ".join(re.findall(r'"[^"]*"', self.host.path("/etc/lab/s.txt").read_text()))

    def files(self, user: str = "alice") -> list[Path]:
        """The messages of a user, as they lie on disk."""
        return sorted(self.host.path(f"{_MAIL}/{user}/new").glob("*"))

    def file(self, subject: str, user: str = "alice", timeout: float = 15.0) -> Path:
        """Waits for the one with that subject."""
        line = f"\nSubject: {subject}\n".encode()

        def find() -> Path | None:
            return next((path for path in self.files(user) if line in path.read_bytes()), None)

        try:
            found = wait_until(find, f"{subject!r} in the mailbox of {user}", timeout)
        except LabError as error:
            raise LabError(f"{error}; its log ends with:\n{self.log()[-3000:]}") from None
        assert found is not None
        return found

    def results(self, path: Path) -> dict[str, str]:
        """What its own programs found of a message: dkim, dmarc, spf."""
        header = path.read_text(errors="replace").partition("\n\n")[0].replace("\n\t", " ").replace("\n ", " ")
        found: dict[str, str] = {}
        for field in re.findall(r"^Authentication-Results: mx\.judge\.test;(.*)$", header, re.MULTILINE):
            for method, result in re.findall(r"(?:^|[;\s])(dkim|dmarc|spf)=(\w+)", field):
                found.setdefault(method, result)
        return found

    def mail_dkim(self, message: bytes) -> str:
        """What Mail::DKIM says of a message (LF line ends)."""
        self.host.path("/run/message").write_bytes(message.replace(b"\n", b"\r\n"))
        return self.host.run("sh", "-c", "dkimproxy-verify </run/message").stdout

    def mail_dkim_signs(self, message: bytes) -> bytes:
        """The field that Mail::DKIM puts above a message."""
        self.host.path("/run/message").write_bytes(message.replace(b"\n", b"\r\n"))
        sign = "dkimproxy-sign --key=/etc/lab/s.private --domain=judge.test --selector=s --method=relaxed/relaxed"
        said = self.host.run("sh", "-c", f"{sign} </run/message").stdout
        return said.replace("\r\n", "\n").strip("\n").encode() + b"\n"

    def rspamd(self, message: bytes) -> str:
        """What rspamd says of a message: its symbols."""
        wait_until(lambda: self.host.listens("127.0.0.1", 11333), "rspamd listening", 60)
        self.host.path("/run/message").write_bytes(message.replace(b"\n", b"\r\n"))
        return self.host.run("rspamc", "-h", "127.0.0.1:11333", "symbols", "/run/message").stdout
