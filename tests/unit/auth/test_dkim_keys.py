"""Files of keys: made privately, read suspiciously."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from smtpmail.auth.dkim_keys import NEXT, RETIRED, SIGNING, KeyFileError, KeyFolder


@pytest.fixture
def folder(tmp_path: Path) -> KeyFolder:
    return KeyFolder(str(tmp_path))


def test_a_new_key(folder: KeyFolder, tmp_path: Path) -> None:
    key = folder.create("dom.fr", "rsa", "mail")
    path = tmp_path / "dom.fr" / "mail.pem"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")  # PKCS#8
    private = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(private, rsa.RSAPrivateKey)
    assert private.key_size == 2048
    assert key.record_name == "mail._domainkey.dom.fr"
    assert re.fullmatch(r"v=DKIM1; k=rsa; p=MIIB[A-Za-z0-9+/]+={0,2}", key.record)
    assert folder.domains() == ["dom.fr"]


def test_selectors(folder: KeyFolder) -> None:
    names = [folder.create("dom.fr", "ed25519").selector for _ in range(3)]
    assert re.fullmatch(r"ed\d{8}", names[0])
    assert names[1:] == [names[0] + "b", names[0] + "c"]
    with pytest.raises(KeyFileError, match="has a key"):
        folder.create("dom.fr", "rsa", names[0])
    for wrong in ("../x", "a/b", ".x", "", "X", "a" * 64):
        with pytest.raises(KeyFileError, match="is no selector"):
            folder.create("dom.fr", "rsa", wrong)


def test_the_newest_of_each_algorithm_signs(folder: KeyFolder, tmp_path: Path) -> None:
    for age, (name, algorithm) in enumerate([("b", "ed25519"), ("a", "ed25519"), ("c", "ed25519"), ("r", "rsa")]):
        folder.create("dom.fr", algorithm, name)
        os.utime(tmp_path / "dom.fr" / f"{name}.pem", (1000 - age, 1000 - age))
    folder.create("dom.fr", "rsa", "n", NEXT)
    (tmp_path / "dom.fr" / "notes.txt").write_text("x")
    assert [key.selector for key in folder.signing("dom.fr")] == ["r", "b"]
    assert [key.selector for key in folder.keys("dom.fr")] == ["a", "b", "c", "n", "r"]
    assert folder.signing("other.fr") == []


def test_a_key_changes_its_state(folder: KeyFolder, tmp_path: Path) -> None:
    key = folder.create("dom.fr", "ed25519", "x", NEXT)
    os.utime(tmp_path / "dom.fr" / "x.next", (1, 1))
    key = folder.move(key, SIGNING)
    assert (key.state, key.changed > 1) == (SIGNING, True)
    key = folder.move(key, RETIRED)
    assert folder.signing("dom.fr") == []
    folder.remove(key)
    assert folder.keys("dom.fr") == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_wider_rights_are_refused(folder: KeyFolder, tmp_path: Path, mode: int) -> None:
    folder.create("dom.fr", "ed25519", "x")
    (tmp_path / "dom.fr" / "x.pem").chmod(mode)
    with pytest.raises(KeyFileError, match=rf"x\.pem \(mode {mode:04o}\); chmod 600 it"):
        folder.signing("dom.fr")


def test_links_are_not_followed(folder: KeyFolder, tmp_path: Path) -> None:
    folder.create("other.fr", "ed25519", "x")
    (tmp_path / "dom.fr").mkdir()
    (tmp_path / "dom.fr" / "x.pem").symlink_to(tmp_path / "other.fr" / "x.pem")
    with pytest.raises(KeyFileError, match="is a link"):
        folder.signing("dom.fr")
    (tmp_path / "link.fr").symlink_to(tmp_path / "other.fr")
    for action in (lambda: folder.signing("link.fr"), lambda: folder.create("link.fr", "ed25519")):
        with pytest.raises(KeyFileError, match="is a link"):
            action()
    assert folder.domains() == ["dom.fr", "link.fr", "other.fr"], "it is named, where keys are listed and read"
    (readable, (complaint,)) = folder.readable("link.fr")
    assert not readable and "link.fr is a link" in complaint


def test_what_is_no_file_does_not_block(folder: KeyFolder, tmp_path: Path) -> None:
    (tmp_path / "dom.fr").mkdir()
    os.mkfifo(tmp_path / "dom.fr" / "x.pem", 0o600)
    with pytest.raises(KeyFileError, match="is not a file"):
        folder.signing("dom.fr")
    (tmp_path / "dir.fr" / "x.pem").mkdir(parents=True, mode=0o700)
    with pytest.raises(KeyFileError, match="is not a file"):
        folder.signing("dir.fr")
    (tmp_path / "file.fr").write_text("x")
    with pytest.raises(KeyFileError, match="cannot open"):
        folder.signing("file.fr")


def test_what_is_no_key(folder: KeyFolder, tmp_path: Path) -> None:
    path = tmp_path / "dom.fr" / "x.pem"
    path.parent.mkdir()
    path.touch(0o600)
    encrypted = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")
    )
    curve = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for content, reason in (
        (b"", "is no private key"),
        (b"\xff" * 100, "is no private key"),
        (encrypted, "is no private key"),
        (curve, "neither an RSA nor an Ed25519"),
        (b"x" * 20_000, "too large"),
    ):
        path.write_bytes(content)
        with pytest.raises(KeyFileError, match=reason):
            folder.signing("dom.fr")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="cannot read"):
        KeyFolder(str(tmp_path / "none")).domains()
    with pytest.raises(KeyFileError, match="cannot open"):
        KeyFolder(str(tmp_path / "none")).create("dom.fr", "rsa")


def test_root_gives_keys_to_the_service(folder: KeyFolder, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    os.chown(tmp_path, 1234, 1235)
    folder.create("dom.fr", "ed25519", "x")
    for path in (tmp_path / "dom.fr", tmp_path / "dom.fr" / "x.pem"):
        assert (path.stat().st_uid, path.stat().st_gid) == (1234, 1235)
