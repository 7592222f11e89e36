"""A person with Thunderbird beside the host: one session, on the network that this process is in.

    person.py JOB

JOB is JSON: `prefs`, of the account; `password` and `certificate` (in base64) of a device, none through a tunnel;
`wait_for`, subjects that must be in the inbox; what to `flag`, `read` and `delete`; what to `send` (to, subject, body);
`screenshot`. When all has been asked for it prints as JSON what the person saw at first, the subjects `flagged` and
those `read`; it stays until its standard input ends.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from support import thunderbird
from support.thunderbird import TOOLS, Thunderbird

PATIENCE = 60.0

TRUST = """
const certificates = Cc["@mozilla.org/security/x509certdb;1"].getService(Ci.nsIX509CertDB);
for (const port of [993, 465]) {
  Cc["@mozilla.org/security/certoverride;1"].getService(Ci.nsICertOverrideService)
    .rememberValidityOverride(given[0], port, {}, certificates.constructX509FromBase64(given[1]), false);
}
"""
"""What is asked once about a certificate that nobody vouches for, confirmed."""


def until(client: Thunderbird, script: str, *arguments: object) -> None:
    """Waits for what the script tells."""
    end = time.monotonic() + PATIENCE
    while not client.run(TOOLS + script, *arguments):
        if time.monotonic() > end:
            raise SystemExit(f"not within {PATIENCE:.0f} s: {script} {arguments}")
        time.sleep(0.3)


def session(client: Thunderbird, job: dict[str, Any]) -> dict[str, object]:
    if job.get("password"):
        host, user = job["prefs"]["mail.server.server1.hostname"], job["prefs"]["mail.server.server1.userName"]
        client.run(TRUST, host, job["certificate"])
        thunderbird.keep_password(client, host, user, job["password"])
    client.run(TOOLS + "server.performExpand(window3.msgWindow);")
    until(
        client,
        """
        if (!inbox()) return false;
        await update(inbox());
        return given[0].every(subject => messages(inbox()).some(m => m.mime2DecodedSubject == subject));
        """,
        job["wait_for"],
    )
    seen = client.run(
        TOOLS
        + """
        const those = test => messages(inbox()).filter(test).map(m => m.mime2DecodedSubject);
        return {flagged: those(m => m.isFlagged), read: those(m => m.isRead)};
        """
    )
    assert isinstance(seen, dict)
    for subject in job.get("flag", ()):
        client.run(TOOLS + "inbox().markMessagesFlagged([message(inbox(), given[0])], true);", subject)
    for subject in job.get("read", ()):
        client.run(TOOLS + "inbox().markMessagesRead([message(inbox(), given[0])], true);", subject)
    for subject in job.get("delete", ()):
        client.run(
            TOOLS
            + """
            await copied(l => inbox().deleteMessages(
              [message(inbox(), given[0])], window3.msgWindow, false, true, l, false));
            """,
            subject,
        )
    if job.get("send"):
        thunderbird.send(client, *job["send"])
        until(client, "return !Services.wm.getMostRecentWindow('msgcompose');")
    if job.get("screenshot"):
        client.run(TOOLS + "window3.document.getElementById('tabmail').currentAbout3Pane.displayFolder(inbox());")
        time.sleep(3)  # until it is painted
        client.screenshot(Path(job["screenshot"]))
    return seen


def main() -> None:
    job = json.loads(sys.argv[1])
    with tempfile.TemporaryDirectory() as home, thunderbird.started(Path(home), job["prefs"]) as client:
        print(json.dumps(session(client, job)), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
