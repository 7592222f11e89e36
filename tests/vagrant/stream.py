"""Sends messages to an SMTP server until it goes away, and prints the token of each that it accepted.

    stream.py ADDRESS PORT SENDER RECIPIENT...

Several sessions at once, several messages a session. Each message carries its token in the subject and the digest of
its body, so that whoever finds it can tell whether it is whole. Needs nothing but Python, so that it runs on any host.
"""

import hashlib
import itertools
import os
import smtplib
import sys
import threading
import uuid

SESSIONS = 4
MESSAGES_A_SESSION = 5
SIZES = (200, 4_000, 60_000)  # octets, about
PATIENCE = 60  # seconds without an answer until a server counts as gone


def message(token: str, size: int) -> bytes:
    line = f"{token} 0123456789 abcdefghijklmnopqrstuvwxyz\n"
    body = line * (size // len(line) + 1)
    digest = hashlib.sha256(body.encode()).hexdigest()
    # smtplib sends octets as they are.
    return f"Subject: cut-{token}\nX-Digest: {digest}\n\n{body}".replace("\n", "\r\n").encode()


def send_until_gone(address: str, port: int, sender: str, recipients: list[str]) -> None:
    sizes = itertools.cycle(SIZES)
    try:
        while True:
            with smtplib.SMTP(address, port, local_hostname="stream.test", timeout=PATIENCE) as server:
                for size in itertools.islice(sizes, MESSAGES_A_SESSION):
                    token = uuid.uuid4().hex
                    if not server.sendmail(sender, recipients, message(token, size)):
                        # In one piece: other threads write, too.
                        os.write(1, f"{token}\n".encode())
    except (OSError, smtplib.SMTPException) as error:
        print(f"{address}: {error}", file=sys.stderr)


if __name__ == "__main__":
    address, port, sender, *recipients = sys.argv[1:]
    for _ in range(SESSIONS):
        threading.Thread(target=send_until_gone, args=(address, int(port), sender, recipients)).start()
