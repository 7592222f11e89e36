"""Several hosts on one volume: what the role writes and asks for, without a host."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROLE

Render = Callable[..., str]
Value = Callable[..., Any]

CLUSTER = {"hosts": ["mx1", "mx2"], "arbiter": "arbiter"}
HOSTS = {
    "mx1": {"smtpmail_cluster_address": "192.0.2.11"},
    "mx2": {"ansible_facts": {"default_ipv4": {"address": "192.0.2.12"}}},
    "arbiter": {"smtpmail_cluster_address": "2001:db8::13"},
}
GIVEN: dict[str, Any] = {"smtpmail_cluster": CLUSTER, "hostvars": HOSTS, "smtpmail_spool": "/srv/mail"}


def test_alone_nothing_changes(render: Render, value: Value) -> None:
    assert value("smtpmail_queue") == "/var/lib/smtpmail/queue"
    assert "shared-spool" not in render("smtpmail.toml")
    assert "24007" not in render("firewall.nft", **OPEN)


OPEN = {"smtpmail_ssh": {"stdout_lines": ["22"]}, "smtpmail_came_through": {"stdout_lines": ["22"]}}


def test_addresses(value: Value) -> None:
    assert value("smtpmail_cluster_members", **GIVEN) == ["mx1", "mx2", "arbiter"]
    assert value("smtpmail_cluster_addresses", **GIVEN) == ["192.0.2.11", "192.0.2.12", "2001:db8::13"]


def test_each_host_has_its_queue_on_the_volume(render: Render) -> None:
    text = render("smtpmail.toml", **GIVEN)
    assert 'queue = "/srv/mail/.queue.mail"' in text
    assert 'shared-spool = "yes"' in text


def test_the_service_waits_for_the_mount(render: Render) -> None:
    assert "RequiresMountsFor=/srv/mail /var/lib/smtpmail" in render("smtpmail.service", **GIVEN)


@pytest.mark.parametrize("template", ["cluster.nft", "firewall.nft"])
def test_the_ports_are_for_the_hosts_alone(render: Render, template: str, tmp_path: Path) -> None:
    text = render(template, **GIVEN, **OPEN)
    assert "ip saddr 192.0.2.11" in text and "ip saddr 192.0.2.12" in text and "ip6 saddr 2001:db8::13" in text
    if template == "cluster.nft":
        accepts = text.rindex("accept")
        assert re.search(r"tcp dport \{ 24007-24008, 49152-60999 \} drop", text[accepts:])
    else:
        assert not re.search(r"^ *tcp dport \{[^}]*24007", text, re.MULTILINE), "open to the world"
    nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin")
    if nft:
        (tmp_path / "rules").write_text(text)
        done = subprocess.run(
            [nft, "--check", "--file", tmp_path / "rules"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or "Operation not permitted" in done.stderr, done.stderr


def test_the_mount_waits_for_the_volume(render: Render) -> None:
    """It is tried once: after a power cut the others may not be up yet."""
    unit = render("smtpmail-volume.service", **GIVEN)
    assert "until mount -t glusterfs localhost:/mail" in unit and "TimeoutStartSec=infinity" in unit
    tasks = (ROLE / "tasks/cluster.yml").read_text()
    assert "nofail" in tasks and "x-systemd.requires=smtpmail-volume.service" in tasks


def test_the_rules_are_there_before_glusterfs(render: Render) -> None:
    unit = render("smtpmail-cluster-firewall.service", **GIVEN)
    assert "Before=network-pre.target glusterd.service" in unit and "RequiredBy=glusterd.service" in unit
    names = [task["name"] for task in yaml.safe_load((ROLE / "tasks/cluster.yml").read_text())]
    assert names.index("Load it, now and at each boot") < names.index("Install GlusterFS") < names.index("Run it")


@pytest.mark.parametrize(
    ("info", "missing"),
    [
        ([], 11),
        (["client.strict-locks: on", "performance.quick-read: on"], 10),
        (["client.strict-locks: on", "performance.quick-read: off", "network.ping-timeout: 10"], 8),
    ],
)
def test_only_what_is_missing_is_set(value: Value, info: list[str], missing: int) -> None:
    found = value("smtpmail_cluster_missing", smtpmail_cluster_info={"stdout_lines": info}, **GIVEN)
    assert len(found) == missing
    assert all(set(option) == {"key", "value"} for option in found)


def test_the_options_are_those_that_check_asks_for(value: Value) -> None:
    """One truth: what `smtpmail check` misses the role sets."""
    from smtpmail.admin.cluster import Volume, judge

    options = json.loads(json.dumps(value("smtpmail_cluster_options")))
    assert list(judge(Volume("mail", 3, 1, False, options))) == []
    for key in options:
        without = {other: text for other, text in options.items() if other != key}
        assert list(judge(Volume("mail", 3, 1, False, without))) != [], key


def test_an_arbiter_is_no_mail_server() -> None:
    tasks = yaml.safe_load((ROLE / "tasks/main.yml").read_text())
    (mail,) = [task for task in tasks if task["name"] == "Make the host a mail server"]
    assert "smtpmail_cluster.arbiter" in mail["when"]


def test_the_hosts_know_each_other_without_dns(value: Value) -> None:
    given = GIVEN | {
        "inventory_hostname": "mx1",
        "hostvars": HOSTS | {"mx2": {**HOSTS["mx2"], "smtpmail_hostname": "mx2.dom.fr"}},
    }
    assert value("smtpmail_cluster_names", **given) == ["192.0.2.12 mx2.dom.fr mx2", "2001:db8::13 arbiter"]


@pytest.mark.parametrize("host", ["mx1", "mx2"])
def test_keys_and_devices_are_shared_and_one_host_replaces_the_keys(value: Value, host: str) -> None:
    given = GIVEN | {"inventory_hostname": host, "smtpmail_dkim": True, "smtpmail_network": True}
    assert value("smtpmail_keys", **given) == "/srv/mail/.dkim"
    assert value("smtpmail_devices_file", **given) == "/srv/mail/.devices"
    assert value("smtpmail_rotates", **given) is (host == "mx1")


def test_what_the_cluster_listens_on_is_not_taken_for_a_strangers(value: Value) -> None:
    listeners = {"stdout_lines": ["tcp 24007", "tcp 49152", "tcp 8080"]}
    closed = value("smtpmail_closed", **GIVEN, **OPEN, smtpmail_listeners=listeners)
    assert closed == ["8080/tcp"]


def test_other_firewalls_let_the_hosts_of_the_cluster_in(value: Value) -> None:
    rules = value("smtpmail_cluster_rich_rules", **GIVEN)
    assert len(rules) == 6
    assert 'rule family="ipv6" source address="2001:db8::13" port port="24007-24008" protocol="tcp" accept' in rules


def entry(uid: int) -> list[str]:
    """What Ansible gathers of an account: the fields of its line in passwd(5) after the name."""
    return ["x", str(uid), str(uid), "", "/home", "/bin/bash"]


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({"bob": entry(1001), "anna": entry(1002)}, []),
        ({"root": entry(0)}, []),
        ({}, []),
        ({"bob": entry(1002)}, ["bob is 1001 here, bob is 1002 on mx2"]),
        ({"anna": entry(1001)}, ["bob is 1001 here, anna is 1001 on mx2"]),
        (
            {"anna": entry(1001), "bob": entry(1002)},
            ["bob is 1001 here, anna is 1001 on mx2", "bob is 1001 here, bob is 1002 on mx2"],
        ),
    ],
)
def test_an_account_is_the_same_on_all_hosts(value: Value, there: dict[str, list[str]], said: list[str]) -> None:
    here = {"getent_passwd": {"bob": entry(1001), "games": entry(5)}}
    given = GIVEN | {
        "ansible_facts": here,
        "hostvars": {"mx1": {"ansible_facts": here}, "mx2": {"ansible_facts": {"getent_passwd": there}}, "arbiter": {}},
    }
    assert value("smtpmail_cluster_strangers", **given) == said
