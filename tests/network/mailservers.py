"""Postfix, Exim and OpenSMTPD from Debian's packages, as hosts of the test network.

Each serves its own domains for the same users, with one maildir a user; its first addresses offer STARTTLS, its second
ones do not.  Anybody may send to these domains; only loopback may send elsewhere.
"""

from __future__ import annotations

import email
import email.policy
from abc import ABC, abstractmethod
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

from support.tls import Authority

from . import certificates
from .lab import COMMAND_TIMEOUT, Host, LabError, wait_until

USERS = ("alice", "carol")
INTERNATIONAL_USER = "jos\u00e9"
_UID = 64100
_MAIL = "/var/mail/lab"
_POLICY = "/etc/postfix-policyd-spf-python/policyd-spf.conf"


class MailServer(ABC):
    """A foreign mail server on a host.  `host.addresses` are: IPv4 and IPv6 with STARTTLS, IPv4 and IPv6 without."""

    name: str
    accounts: tuple[str, ...] = ()
    """System users that the package's installation would have made."""
    smtputf8 = True
    handshake_works = True
    """Whether a client's STARTTLS succeeds on the addresses that offer it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.domain = f"{self.name}.test"
        self.hostname = f"mx.{self.domain}"
        self.domains = [self.domain] + [f"{kind}.{self.domain}" for kind in ("tls4", "tls6", "clear4", "clear6")]
        self.users = [*USERS, INTERNATIONAL_USER] if self.smtputf8 else list(USERS)
        self.tls_addresses = host.addresses[:2]
        self.clear_addresses = host.addresses[2:4]
        self.checked_addresses = host.addresses[4:]

    def start(self, authority: Authority) -> None:
        """Write the configuration, start the daemon and wait until it listens."""
        names = [self.hostname, f"tls4.{self.hostname}", f"tls6.{self.hostname}"]
        certificates.install(authority, self.host, names)
        self.host.write("/etc/resolv.conf", "nameserver 192.0.2.53\n")
        self.host.write("/etc/hosts", f"127.0.0.1 localhost\n::1 localhost\n192.0.2.1 {self.hostname}\n")
        self.host.write("/etc/mailname", self.hostname + "\n")
        self._add_accounts(("vmail", *self.accounts))
        self.host.run("install", "-d", "-o", "vmail", "-g", "vmail", "-m", "0700", _MAIL)
        self.configure()
        self.launch()

    @abstractmethod
    def configure(self) -> None:
        """Write the daemon's own configuration."""

    @abstractmethod
    def launch(self) -> None:
        """Start the daemon."""

    def forget_hosts(self) -> None:  # noqa: B027  # nothing to do is the usual case
        """Forget what the daemon has learned about other hosts, for one of them is about to be another one."""

    @abstractmethod
    def log(self) -> str:
        """What the daemon has logged so far."""

    def messages(self, user: str) -> list[EmailMessage]:
        """The messages that lie in a user's maildir."""
        return [_parse(path) for path in sorted(self.host.path(f"{_MAIL}/{user}/new").glob("*"))]

    def wait_for(self, user: str, subject: str, timeout: float = 15.0) -> EmailMessage:
        """Wait until a message with that subject (a part of it) lies in the user's maildir."""
        return self._wait(user, lambda message: subject in message.get("Subject", ""), f"{subject!r}", timeout)

    def wait_for_content(self, user: str, text: str, timeout: float = 15.0) -> str:
        """Wait until a message with that text anywhere in it lies in the user's maildir; returns it whole."""
        return self._wait(user, lambda message: text in str(message), f"a message with {text!r}", timeout).as_string()

    def _wait(self, user: str, accept: Callable[[EmailMessage], bool], what: str, timeout: float) -> EmailMessage:
        def find() -> EmailMessage | None:
            return next(filter(accept, self.messages(user)), None)

        try:
            found = wait_until(find, f"{what} in the mailbox of {user} at {self.name}", timeout)
        except LabError as error:
            raise LabError(f"{error}; its log ends with:\n{self.log()[-3000:]}") from None
        assert found is not None
        return found

    def _add_accounts(self, names: tuple[str, ...]) -> None:
        passwd, group = self.host.path("/etc/passwd"), self.host.path("/etc/group")
        for number, name in enumerate(names, start=_UID):
            self.host.write("/etc/passwd", f"{passwd.read_text()}{name}:x:{number}:{number}::/:/usr/sbin/nologin\n")
            self.host.write("/etc/group", f"{group.read_text()}{name}:x:{number}:\n")


class Postfix(MailServer):
    """Its third addresses ask SPF of each sender (policyd-spf), and refuse where it fails."""

    name = "postfix"

    def configure(self) -> None:
        self.domains.append(f"checked.{self.domain}")
        self.host.write(
            _POLICY,
            "debugLevel = 1\nHELO_reject = Fail\nMail_From_reject = Fail\nskip_addresses = 127.0.0.0/8\n",
        )
        mailboxes = [f"{user}@{domain} {user}/" for user in self.users for domain in self.domains]
        self.host.write("/etc/postfix/mailboxes", "\n".join(mailboxes) + "\n")
        self.host.write(
            "/etc/postfix/main.cf",
            f"""
compatibility_level = 3.6
maillog_file = /var/log/mail.log
myhostname = {self.hostname}
mydestination =
mynetworks = 127.0.0.0/8 [::1]/128
inet_interfaces = all
inet_protocols = all
alias_maps =
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
virtual_mailbox_domains = {" ".join(self.domains)}
virtual_mailbox_maps = texthash:/etc/postfix/mailboxes
virtual_mailbox_base = {_MAIL}
virtual_uid_maps = static:{_UID}
virtual_gid_maps = static:{_UID}
smtputf8_enable = yes
smtpd_tls_cert_file = {certificates.CERTIFICATE}
smtpd_tls_key_file = {certificates.KEY}
smtpd_tls_security_level = may
smtpd_tls_loglevel = 1
smtp_tls_security_level = may
smtp_tls_CAfile = {certificates.AUTHORITY}
smtp_tls_loglevel = 1
minimal_backoff_time = 5s
queue_run_delay = 5s
""",
        )
        listeners = "".join(
            f"{_bracketed(address)}:25 inet n - n - - smtpd\n" for address in ("127.0.0.1", *self.tls_addresses)
        )
        listeners += "".join(
            f"{_bracketed(address)}:25 inet n - n - - smtpd -o smtpd_tls_security_level=none\n"
            for address in self.clear_addresses
        )
        listeners += "".join(
            f"{_bracketed(address)}:25 inet n - n - - smtpd -o smtpd_tls_security_level=none"
            " -o { smtpd_recipient_restrictions = check_policy_service unix:private/policyd-spf }\n"
            for address in self.checked_addresses
        )
        self.host.write(
            "/etc/postfix/master.cf",
            f"""
{listeners}
postlog   unix-dgram n - n - 1 postlogd
pickup    unix  n       -       n       60      1       pickup
cleanup   unix  n       -       n       -       0       cleanup
qmgr      unix  n       -       n       300     1       qmgr
tlsmgr    unix  -       -       n       1000?   1       tlsmgr
rewrite   unix  -       -       n       -       -       trivial-rewrite
bounce    unix  -       -       n       -       0       bounce
defer     unix  -       -       n       -       0       bounce
trace     unix  -       -       n       -       0       bounce
verify    unix  -       -       n       -       1       verify
flush     unix  n       -       n       1000?   0       flush
proxymap  unix  -       -       n       -       -       proxymap
smtp      unix  -       -       n       -       -       smtp
relay     unix  -       -       n       -       -       smtp
showq     unix  n       -       n       -       -       showq
error     unix  -       -       n       -       -       error
retry     unix  -       -       n       -       -       error
discard   unix  -       -       n       -       -       discard
virtual   unix  -       n       n       -       -       virtual
anvil     unix  -       -       n       -       1       anvil
scache    unix  -       -       n       -       1       scache
policyd-spf unix -      n       n       -       0       spawn user=nobody argv=/usr/bin/policyd-spf {_POLICY}
""",
        )

    def launch(self) -> None:
        # The machine's own Postfix may have left its queue here; this host begins with an empty one.
        self.host.run(
            "sh",
            "-c",
            "rm -rf /var/spool/postfix && mkdir -p /var/spool/postfix /var/log && chown postfix: /var/lib/postfix",
        )
        self.host.daemon("postfix", "start-fg")

    def log(self) -> str:
        return _read(self.host, "/var/log/mail.log", "/run/postfix.out")


class Exim(MailServer):
    name = "exim"
    accounts = ("Debian-exim",)

    def configure(self) -> None:
        clear = " ; ".join(self.clear_addresses)
        self.host.write(
            "/etc/exim4/exim4.conf",
            f"""
primary_hostname = {self.hostname}
domainlist local_domains = {" : ".join(self.domains)}
hostlist relay_from_hosts = <; 127.0.0.1 ; ::1
local_interfaces = <; 0.0.0.0 ; ::0
tls_certificate = {certificates.CERTIFICATE}
tls_privatekey = {certificates.KEY}
tls_advertise_hosts = ${{if match_ip{{$received_ip_address}}{{<; {clear}}}{{}}{{*}}}}
smtputf8_advertise_hosts = *
chunking_advertise_hosts = *
dsn_advertise_hosts = *
accept_8bitmime = true
never_users =
log_selector = +tls_cipher +smtp_protocol_error +received_recipients
acl_smtp_mail = accept
acl_smtp_rcpt = check_recipient

begin acl
check_recipient:
  accept hosts = +relay_from_hosts
  require message = relay not permitted
          domains = +local_domains
  require verify = recipient
  accept

begin routers
mailbox:
  driver = accept
  domains = +local_domains
  local_parts = {" : ".join(self.users)}
  transport = maildir
elsewhere:
  driver = dnslookup
  domains = ! +local_domains
  transport = smtp
  no_more

begin transports
maildir:
  driver = appendfile
  directory = {_MAIL}/$local_part_data
  maildir_format
  user = vmail
  group = vmail
  return_path_add
smtp:
  driver = smtp
  tls_verify_certificates = {certificates.AUTHORITY}
  tls_try_verify_hosts = *

begin retry
* * F,1h,5s
""",
        )

    def launch(self) -> None:
        self.host.run(
            "install",
            "-d",
            "-o",
            "Debian-exim",
            "-g",
            "Debian-exim",
            "/var/spool/exim4",
            "/var/log/exim4",
            "/run/exim4",
        )
        # Exim reads the key after it has given up root.
        self.host.run("chown", "Debian-exim", certificates.KEY)
        self.host.daemon("exim4", "-bdf", "-q5s")

    def log(self) -> str:
        return _read(self.host, "/var/log/exim4/mainlog", "/var/log/exim4/rejectlog", "/run/exim4.out")


class OpenSmtpd(MailServer):
    name = "opensmtpd"
    accounts = ("opensmtpd", "opensmtpq")
    smtputf8 = False
    # As shipped with Debian 12 it offers STARTTLS and then fails every handshake ("missing private key": its key
    # process is not made for OpenSSL 3, https://github.com/OpenSMTPD/OpenSMTPD/issues/1171).  As a client it is fine.
    handshake_works = False

    def configure(self) -> None:
        users = "".join(f"{user} {_UID}:{_UID}:{_MAIL}/{user}\n" for user in self.users)
        self.host.write("/etc/lab-users", users)
        domains = ", ".join(f'"{domain}"' for domain in self.domains)
        tls = "".join(
            f'listen on "{address}" hostname {self.hostname} tls pki {self.hostname}\n'
            for address in self.tls_addresses
        )
        clear = "".join(
            f'listen on "{address}" hostname {self.hostname}\n' for address in ("127.0.0.1", *self.clear_addresses)
        )
        self.host.write(
            "/etc/smtpd.conf",
            f"""
pki {self.hostname} cert "{certificates.CERTIFICATE}"
pki {self.hostname} key "{certificates.KEY}"
table users file:/etc/lab-users
table domains {{ {domains} }}
{tls}{clear}
action "inbox" maildir "{_MAIL}/%{{user.username}}" userbase <users>
action "out" relay helo {self.hostname}
match from any for domain <domains> action "inbox"
match from local for any action "out"
""",
            mode=0o600,
        )

    def launch(self) -> None:
        self.host.run("install", "-d", "-m", "0755", "/var/lib/opensmtpd/empty")
        self.host.run("install", "-d", "-m", "0711", "/var/spool/smtpd")
        self._daemon = self.host.daemon("/usr/sbin/smtpd", "-d")

    def forget_hosts(self) -> None:
        # It keeps connections open for reuse, and leaves a host alone for a long time after one of them broke.
        self._daemon.terminate()
        self._daemon.wait(COMMAND_TIMEOUT)
        self.launch()

    def log(self) -> str:
        return _read(self.host, "/run/smtpd.out")


SERVERS: tuple[type[MailServer], ...] = (Postfix, Exim, OpenSmtpd)


def _parse(path: Path) -> EmailMessage:
    message = email.message_from_bytes(path.read_bytes(), policy=email.policy.SMTPUTF8)
    assert isinstance(message, EmailMessage)
    return message


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _read(host: Host, *paths: str) -> str:
    return "".join(host.path(path).read_text(errors="replace") for path in paths if host.path(path).exists())
