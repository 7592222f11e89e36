"""The DNS of the test network: knot, authoritative for the zones below zones/, and unbound, a resolver that starts at
the network's own root.  Both run on one host."""

from __future__ import annotations

import re
from pathlib import Path

import dns.query
import dns.rcode
import dns.tsig
import dns.update

from .lab import COMMAND_TIMEOUT, Host

ZONES = Path(__file__).with_name("zones")
RESOLVER = "192.0.2.53"
AUTHORITY = ("192.0.2.54", "2001:db8::54")
SECONDARY = ("192.0.2.55", "2001:db8::55")
"""A second server of the zones below, which gets their changes when `Secondary.refresh` is called."""
SECONDARY_ZONES = ("_domainkey.v6.dom.test",)

TSIG_KEY = """key "updater" {
    algorithm hmac-sha256;
    secret "c2VjcmV0IG9mIHRoZSB0ZXN0IG5ldHdvcms=";
};
"""
"""With it, zones of keys (_domainkey) are changed by dynamic updates."""

_SECRET = TSIG_KEY.split('"')[3]

_KNOT = f"""
server:
  listen: [{", ".join(f"{address}@53" for address in AUTHORITY)}]
  rundir: /run/knot
  user: root:root
  automatic-acl: off
database:
  storage: /run/knot
log:
  - target: stderr
    any: notice
key:
  - id: updater
    algorithm: hmac-sha256
    secret: {_SECRET}
acl:
  - id: updater
    key: updater
    action: update
  - id: secondary
    address: [{", ".join(SECONDARY)}]
    action: transfer
template:
  - id: default
    storage: {ZONES}
    zonefile-sync: -1
    journal-content: none
    semantic-checks: off
zone:
  - domain: .
    file: root.zone
"""

_SECONDARY = f"""
server:
  listen: [{", ".join(f"{address}@53" for address in SECONDARY)}]
  rundir: /run/knot2
  user: root:root
  automatic-acl: off
database:
  storage: /run/knot2
log:
  - target: stderr
    any: notice
remote:
  - id: primary
    address: {AUTHORITY[0]}
    via: {SECONDARY[0]}
template:
  - id: default
    storage: /run/knot2
    master: primary
zone:
""" + "".join(f"  - domain: {zone}\n" for zone in SECONDARY_ZONES)

# The blocked and localhost-only zones of RFC 6303 and RFC 6761 are what this network consists of: "nodefault".
# The host's PTR zones and .test must be asked for like any others.
_UNBOUND = f"""
server:
  interface: {RESOLVER}
  interface: 2001:db8::53
  access-control: 192.0.2.0/24 allow
  access-control: 2001:db8::/32 allow
  chroot: ""
  username: ""
  directory: /run
  pidfile: ""
  use-syslog: no
  logfile: ""
  log-queries: yes
  do-daemonize: no
  module-config: iterator
  root-hints: /etc/lab.hints
  local-zone: test. nodefault
  local-zone: 2.0.192.in-addr.arpa. nodefault
  local-zone: 8.b.d.0.1.0.0.2.ip6.arpa. nodefault
  num-threads: 1
  cache-max-negative-ttl: 1
remote-control:
  control-enable: no
"""

_HINTS = f""". 3600 NS ns.test.
ns.test. 3600 A {AUTHORITY[0]}
ns.test. 3600 AAAA {AUTHORITY[1]}
"""


def start(host: Host) -> None:
    """Start both servers and wait until they answer."""
    zones = [path.name for path in sorted(ZONES.glob("*.zone")) if path.name != "root.zone"]
    listed = "".join(
        f"  - domain: {name.removesuffix('.zone')}\n    file: {name}\n"
        + ("    acl: [updater, secondary]\n    journal-content: changes\n" if name.startswith("_domainkey") else "")
        for name in zones
    )
    host.write("/etc/knot/lab.conf", _KNOT + listed)
    host.path("/run/knot").mkdir()
    host.daemon("knotd", "--config", "/etc/knot/lab.conf", port=53, address=AUTHORITY[0])
    host.write("/etc/lab.hints", _HINTS)
    host.write("/etc/unbound/lab.conf", _UNBOUND)
    host.daemon("unbound", "-d", "-c", "/etc/unbound/lab.conf", port=53, address=RESOLVER)


class Secondary:
    """The second server, which lags."""

    def __init__(self, host: Host) -> None:
        self._host = host
        host.write("/etc/knot/secondary.conf", _SECONDARY)
        host.path("/run/knot2").mkdir(exist_ok=True)
        command = ("knotd", "--config", "/etc/knot/secondary.conf")
        self._daemon = host.daemon(*command, port=53, address=SECONDARY[0])

    def refresh(self) -> None:
        """Fetches what has changed; it is served when this returns."""
        self._host.run("knotc", "--config", "/etc/knot/secondary.conf", "--blocking", "zone-refresh", *SECONDARY_ZONES)

    def stop(self) -> None:
        """From now on nobody answers at its addresses."""
        self._daemon.terminate()
        self._daemon.wait(COMMAND_TIMEOUT)


def publish(host: Host, zone: str, name: str, text: str) -> None:
    """Publish a TXT record, in zone-file form, in the place of others of its name."""
    update = dns.update.UpdateMessage(zone, keyring={dns.name.from_text("updater"): dns.tsig.Key("updater", _SECRET)})
    update.replace(name, 60, "TXT", text)
    response = host.call(dns.query.tcp, update, AUTHORITY[0], 10)
    assert response.rcode() == dns.rcode.NOERROR, response


def questions(host: Host, name: str, rrtype: str) -> int:
    """How often the resolver has been asked for these records since it started."""
    log = host.path("/run/unbound.out").read_text()
    return len(re.findall(rf"info: \S+ {re.escape(name)}\. {rrtype} IN$", log, re.MULTILINE))
