"""The bound of an account over several processes of the real server."""

from __future__ import annotations

import os

from support import require
from support.client import Address, Client
from support.server import Servers


def send(address: Address, count: int) -> list[int]:
    """The replies to MAIL, each in a connection of its own."""
    codes = []
    for _ in range(count):
        with Client(address) as client:
            client.ehlo()
            answer = client.command("MAIL FROM:<web@dom.fr>")
            codes.append(answer.code)
            if answer.code == 250:
                client.expect("RCPT TO:<bob@dom.fr>", 250)
                assert client.data(b"Subject: x\r\n\r\nx\r\n").code == 250
    return codes


def send_as(uid: int, address: Address, count: int) -> list[int]:
    """The same in the name of another account."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setuid(uid)
            os.write(writer, " ".join(map(str, send(address, count))).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader) as pipe:
        codes = [int(word) for word in pipe.read().split()]
    os.waitpid(pid, 0)
    return codes


def test_an_account_is_bounded_and_root_is_not(servers: Servers) -> None:
    require.root()
    server = servers.start("--max-messages-per-account", "5", "--processes", "3")
    address = server.address()
    assert send(address, 8) == [250] * 8
    assert send_as(4711, address, 8) == [250] * 5 + [450] * 3
    assert server.wait_event("account.limited")["uid"] == 4711
    assert {e["uid"] for e in server.events_named("session.opened")} == {0, 4711}
