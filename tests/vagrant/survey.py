"""Lists what lies in mailboxes, as JSON: survey.py FOLDER...

Of each message that stream.py sent: the token, and whether it is all there. A folder may be one of smtpmail (numbers,
each with its `.status`) or the `new` of a Maildir. What is neither a whole message nor its status is named as `odd`.
Whether messages of others have been read, and the folders in a folder, do not matter.
"""

import hashlib
import json
import os
import re
import sys

STATUS = b"\\Recent\n"


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def survey(folder: str) -> tuple[list[str], list[str]]:
    tokens, odd = [], []
    # A folder comes with its first message.
    names = {name for name in os.listdir(folder) if not name.startswith(".")} if os.path.isdir(folder) else set()
    for name in sorted(names):
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            continue
        if name.endswith(".status"):
            if name.removesuffix(".status") not in names:
                odd.append(path)
            continue
        content = read(path)
        header, _, body = content.partition(b"\n\n")
        token = re.search(rb"^Subject: cut-([0-9a-f]{32})$", header, re.MULTILINE)
        digest = re.search(rb"^X-Digest: ([0-9a-f]{64})$", header, re.MULTILINE)
        is_numbered = "/Maildir/" not in path
        if is_numbered and (not name.isdigit() or f"{name}.status" not in names or not content.startswith(b"Return-")):
            odd.append(path)
        elif token and is_numbered and read(f"{path}.status") != STATUS:
            odd.append(f"{path}.status")
        elif token and digest and hashlib.sha256(body).hexdigest().encode() == digest[1]:
            tokens.append(token[1].decode())
        elif token or not header.strip():
            odd.append(path)
    return tokens, odd


if __name__ == "__main__":
    found = {folder: survey(folder) for folder in sys.argv[1:]}
    print(json.dumps({folder: {"tokens": tokens, "odd": odd} for folder, (tokens, odd) in found.items()}))
