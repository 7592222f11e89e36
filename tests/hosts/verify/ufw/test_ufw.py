"""A host whose operator has ufw: one rule for each port is added to it."""

from __future__ import annotations

from testinfra.host import Host


def test_rules_of_the_operator_stay_and_no_second_firewall_comes(mail: Host) -> None:
    rules = mail.check_output("ufw show added").splitlines()[1:]
    ours = [f"ufw allow {port}/tcp comment 'smtpmail'" for port in (25, 993, 465)]
    assert rules == ["ufw allow 22/tcp", "ufw allow 443/tcp", *ours]
    assert mail.run("nft list table inet smtpmail").rc != 0
