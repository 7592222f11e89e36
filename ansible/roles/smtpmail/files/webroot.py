"""Which folder the web server of this host shows for a name: webroot.py NAME FOLDER...

Prints the first of the folders where a file of ours is found by http://NAME/.well-known/acme-challenge/FILE, asked at
an address of the host itself; nothing when it is none of them. The path is written as certbot writes it down.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import sys

PLACE = ".well-known/acme-challenge"


def main(name: str, *folders: str) -> None:
    whole = map(os.path.abspath, folders)
    print(next((folder for folder in whole if os.path.isdir(folder) and shows(name, folder)), ""), end="")


def shows(name: str, folder: str) -> bool:
    """Whether the server shows a new file of the folder."""
    token = secrets.token_hex(16)
    file = os.path.join(folder, PLACE, token)
    os.makedirs(os.path.dirname(file), mode=0o755, exist_ok=True)
    with open(file, "x") as handle:
        handle.write(token)
    os.chmod(file, 0o644)
    try:
        return any(answer(address, name, token) == token.encode() for address in ("127.0.0.1", "::1"))
    finally:
        os.unlink(file)


def answer(address: str, name: str, token: str) -> bytes:
    """What comes from an address of this host; nothing without a server there."""
    with (
        contextlib.suppress(OSError, http.client.HTTPException),
        contextlib.closing(http.client.HTTPConnection(address, 80, timeout=5)) as connection,
    ):
        connection.request("GET", f"/{PLACE}/{token}", headers={"Host": name})
        response = connection.getresponse()
        return response.read(1000) if response.status == http.client.OK else b""
    return b""


if __name__ == "__main__":
    main(*sys.argv[1:])
