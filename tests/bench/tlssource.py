"""What smtp-source lacks, STARTTLS: `... -m tests.bench.tlssource PORT RECIPIENT SESSIONS MESSAGES OCTETS REUSE`."""

from __future__ import annotations

import asyncio
import ssl
import sys

SENDER = "sender@dom.fr"


async def _command(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes, code: bytes) -> None:
    """Sends a line (nothing for the greeting) and expects a reply. Raises RuntimeError."""
    if line:
        writer.write(line + b"\r\n")
    while True:
        reply = await reader.readline()
        if not reply.startswith(code):
            raise RuntimeError(f"{line[:40]!r}: {reply!r}")
        if reply[3:4] == b" ":
            return


async def _connection(port: int, context: ssl.SSLContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await _command(reader, writer, b"", b"220")
    await _command(reader, writer, b"EHLO client.example", b"250")
    await _command(reader, writer, b"STARTTLS", b"220")
    await writer.start_tls(context, server_hostname="mx.dom.fr")
    await _command(reader, writer, b"EHLO client.example", b"250")
    return reader, writer


async def _session(port: int, recipient: str, messages: list[None], content: bytes, *, reuse: bool) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader = writer = None
    while messages:
        messages.pop()
        if reader is None or writer is None:
            reader, writer = await _connection(port, context)
        await _command(reader, writer, f"MAIL FROM:<{SENDER}>".encode(), b"250")
        await _command(reader, writer, f"RCPT TO:<{recipient}>".encode(), b"250")
        await _command(reader, writer, b"DATA", b"354")
        await _command(reader, writer, content, b"250")
        if not reuse or not messages:
            await _command(reader, writer, b"QUIT", b"221")
            writer.close()
            reader = writer = None
    if writer is not None:
        writer.close()


async def _all(port: int, recipient: str, sessions: int, count: int, octets: int, *, reuse: bool) -> None:
    line = b"X" * 78 + b"\r\n"
    content = b"Subject: bench\r\n\r\n" + line * (octets // len(line)) + b"."
    messages = [None] * count
    await asyncio.gather(
        *(_session(port, recipient, messages, content, reuse=reuse) for _ in range(sessions))
    )  # fmt: skip


if __name__ == "__main__":
    port, recipient, sessions, count, octets, reuse = sys.argv[1:]
    asyncio.run(_all(int(port), recipient, int(sessions), int(count), int(octets), reuse=reuse == "1"))
