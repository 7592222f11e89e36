"""Hosts that share the file of devices: each notes in a file of its own when a device was used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from smtpmail.users.devices import Devices, read_uses


def use(time: int, address: str) -> str:
    return json.dumps({"user": "bob", "device": "phone", "time": time, "address": address}) + "\n"


@pytest.mark.parametrize("shared", [False, True])
def test_the_last_use_on_whichever_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: bool) -> None:
    monkeypatch.setattr("smtpmail.mounts.is_shared", lambda path: shared)
    path = tmp_path / "devices"
    devices = Devices(str(path))
    device = devices.find("bob", devices.add("bob", "phone"))
    assert device is not None
    devices.note_use(device, "192.0.2.7")
    own = f"devices.used.{os.uname().nodename}" if shared else "devices.used"
    locks = {"devices.lock", f"{own}.lock"} if shared else {"devices.lock"}
    assert {p.name for p in tmp_path.iterdir()} == {"devices", own} | locks
    (seen,) = read_uses(str(path))
    assert seen.address == "192.0.2.7"
    (tmp_path / "devices.used.elsewhere").write_text(use(round(seen.time) + 60, "192.0.2.8"))
    (tmp_path / "devices.used.older").write_text(use(7, "192.0.2.9"))
    (tmp_path / "devices.used.elsewhere.lock").write_text("")
    assert [found.address for found in read_uses(str(path))] == ["192.0.2.8"]
