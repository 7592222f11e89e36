"""A host whose Postfix judges what comes by OpenDKIM and OpenDMARC, refuses what DMARC forbids, and signs what leaves.

Beside them rspamd, Mail::DKIM (Perl) and dkimpy, which are asked about messages that have come, and sign others. In
Debian 12 rspamd and dkimpy know Ed25519 (RFC 8463).
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import dkim

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
sign {}  # a module that has no section is not loaded
"""

_RSPAMD_SIGNS = """
rspamd_config:register_symbol({
  name = "SIGN", type = "idempotent", flags = "empty",
  callback = function(task)
    rspamd_plugins.dkim.sign(task, {domain = "judge.test", selector = "ed", key = "/etc/lab/ed.key"})
  end,
})
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
        self.host.write("/etc/lab/modules/sign.lua", _RSPAMD_SIGNS)
        self.host.run("opendkim-genkey", "-b", "2048", "-d", self.domain, "-s", "s", "-D", "/etc/lab")
        new = self.host.run(
            "rspamadm", "dkim_keygen", "-s", "ed", "-d", self.domain, "-t", "ed25519", "-k", "/etc/lab/ed.key"
        )
        self.host.write("/etc/lab/ed.txt", new.stdout)

    def launch(self) -> None:
        self.host.daemon("opendkim", "-f", "-x", "/etc/lab/opendkim.conf", port=8891)
        self.host.daemon("opendmarc", "-f", "-c", "/etc/lab/opendmarc.conf", port=8893)
        with self.host.path("/run/rspamd.out").open("wb") as output:
            command = ("rspamd", "-f", "-c", "/etc/lab/rspamd.conf", "-u", "root", "-g", "root", "-i")
            self.host.spawn(*command, stdout=output, stderr=output)
        super().launch()

    def key_record(self, selector: str) -> str:
        """The value of the TXT record of its key `s` (RSA) or `ed` (Ed25519), in zone-file form."""
        return " ".join(re.findall(r'"[^"]*"', self.host.path(f"/etc/lab/{selector}.txt").read_text()))

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
        return self._rspamc(message, "symbols")

    def rspamd_signs(self, message: bytes) -> bytes:
        """The field that rspamd puts above a message, with Ed25519."""
        said = json.loads(self._rspamc(message, "--json", "symbols"))
        return f"DKIM-Signature: {said['dkim-signature']}\n".replace("\r\n", "\n").encode()

    def _rspamc(self, message: bytes, *arguments: str) -> str:
        wait_until(lambda: self.host.listens("127.0.0.1", 11333), "rspamd listening", 60)
        self.host.path("/run/message").write_bytes(message.replace(b"\n", b"\r\n"))
        return self.host.run("rspamc", "-h", "127.0.0.1:11333", *arguments, "/run/message").stdout

    def dkimpy_signs(self, message: bytes) -> bytes:
        """The field that dkimpy puts above a message, with Ed25519."""
        seed = base64.b64decode(self.host.path("/etc/lab/ed.key").read_bytes())[:32]
        text, key = message.replace(b"\n", b"\r\n"), base64.b64encode(seed)
        signed: bytes = dkim.sign(text, b"ed", self.domain.encode(), key, signature_algorithm=b"ed25519-sha256")
        return signed.replace(b"\r\n", b"\n")

    @staticmethod
    def dkimpy(message: bytes, records: dict[str, str]) -> list[bool]:
        """Whether dkimpy takes the signatures of a message, from top to bottom. `records`: names and their texts."""
        judged = dkim.DKIM(message.replace(b"\n", b"\r\n"))

        def lookup(name: bytes, timeout: float = 5) -> bytes:
            return records[name.decode().rstrip(".")].encode()

        def verified(idx: int) -> bool:
            try:
                return bool(judged.verify(idx, lookup))
            except dkim.DKIMException:
                return False

        number = len(re.findall(rb"^DKIM-Signature:", message.partition(b"\n\n")[0], re.MULTILINE))
        return [verified(idx) for idx in range(number)]
