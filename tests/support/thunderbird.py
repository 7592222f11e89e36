"""A real Thunderbird on a screen of its own, driven by its remote protocol (Marionette)."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from support import require

START_SECONDS = 120.0

Pref = str | int | bool

QUIET: dict[str, Pref] = {
    "app.update.enabled": False,
    "datareporting.healthreport.uploadEnabled": False,
    "datareporting.policy.dataSubmissionPolicyBypassNotification": True,
    "extensions.update.enabled": False,
    "mail.provider.suppress_dialog_on_startup": True,
    "mail.shell.checkDefaultClient": False,
    "mail.rights.version": 1,
    "mail.spotlight.firstRunDone": True,
    "mail.warn_on_send_accel_key": False,
    "mail.server.default.check_all_folders_for_new": True,
    "mailnews.start_page.enabled": False,
    "mailnews.start_page_override.mstone": "ignore",
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.proxy.type": 0,
    "toolkit.telemetry.enabled": False,
}
"""What keeps it from asking questions, and from the world."""


TOOLS = """
const { MailServices } = ChromeUtils.importESModule("resource:///modules/MailServices.sys.mjs");
const window3 = Services.wm.getMostRecentWindow("mail:3pane");
const server = MailServices.accounts.accounts[0].incomingServer;
const named = name => server.rootFolder.descendants.find(f => f.name.toLowerCase() == name.toLowerCase());
const inbox = () => named("Inbox");
const update = folder => new Promise((resolve, reject) => {
  folder.QueryInterface(Ci.nsIMsgImapMailFolder).updateFolderWithListener(window3.msgWindow, {
    OnStartRunningUrl() {}, OnStopRunningUrl(_, status) { status ? reject("update: " + status) : resolve(); } });
});
const messages = folder => [...folder.messages];
const message = (folder, subject) => {
  const found = messages(folder).find(m => m.mime2DecodedSubject == subject);
  if (!found) throw new Error("no " + subject + " in " + messages(folder).map(m => m.mime2DecodedSubject));
  return found;
};
const copied = start => new Promise((resolve, reject) => start({
  QueryInterface: ChromeUtils.generateQI(["nsIMsgCopyServiceListener"]),
  onStartCopy() {}, onProgress() {}, setMessageKey() {}, getMessageId() { return null; },
  onStopCopy(status) { status ? reject("copy: " + status) : resolve(); } }));
"""
"""Functions for scripts: one account, read over IMAP."""


class Thunderbird:
    """Marionette's wire protocol: `LENGTH:JSON`, [0, id, name, parameters] and [1, id, error, result]."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._buffer = b""
        self._id = 0
        self._read()
        self.command("WebDriver:NewSession", {"capabilities": {"alwaysMatch": {"acceptInsecureCerts": True}}})
        self.command("Marionette:SetContext", {"value": "chrome"})
        self.command("WebDriver:SetTimeouts", {"script": 60_000})

    def command(self, name: str, parameters: Mapping[str, object] | None = None) -> object:
        """Raises AssertionError with what went wrong there."""
        self._id += 1
        data = json.dumps([0, self._id, name, parameters or {}]).encode()
        self._sock.sendall(b"%d:%s" % (len(data), data))
        _, _, error, result = self._read()
        assert error is None, f"{name}: {error['error']}: {error['message']}"
        return result

    def run(self, script: str, *arguments: object) -> object:
        """What an asynchronous function with this body returns; run with the program's own rights."""
        body = (
            "const done = arguments[arguments.length - 1]; const given = [...arguments].slice(0, -1);"
            f"(async () => {{ {script} }})().then(x => done({{value: x ?? null}}), e => done({{error: String(e)}}));"
        )
        result = self.command("WebDriver:ExecuteAsyncScript", {"script": body, "args": list(arguments)})
        assert isinstance(result, dict)
        answer = result["value"]
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def screenshot(self, path: Path) -> None:
        """The window as a PNG file."""
        result = self.command("WebDriver:TakeScreenshot", {"full": True})
        assert isinstance(result, dict)
        path.write_bytes(base64.b64decode(str(result["value"])))

    def _read(self) -> list:  # type: ignore[type-arg]
        while b":" not in self._buffer:
            self._receive()
        length, _, self._buffer = self._buffer.partition(b":")
        while len(self._buffer) < int(length):
            self._receive()
        data, self._buffer = self._buffer[: int(length)], self._buffer[int(length) :]
        found = json.loads(data)
        return found if isinstance(found, list) else [found]

    def _receive(self) -> None:
        data = self._sock.recv(1 << 20)
        assert data, "Thunderbird has ended"
        self._buffer += data


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


@contextlib.contextmanager
def started(folder: Path, prefs: Mapping[str, Pref], *, size: str = "1100x720") -> Iterator[Thunderbird]:
    """A Thunderbird with a new profile in `folder`."""
    programs = {name: require.tool(name, package) for name, package in (
        ("Xvfb", "xvfb"), ("thunderbird", None), ("dbus-run-session", "dbus-daemon"), ("openbox", None),
    )}  # fmt: skip
    profile = folder / "profile"
    profile.mkdir()
    port = _free_port()
    lines = {**QUIET, **prefs, "marionette.port": port}
    (profile / "user.js").write_text(
        "".join(f"user_pref({json.dumps(n)}, {json.dumps(v)});\n" for n, v in lines.items())
    )
    read, write = os.pipe()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((folder / "thunderbird.log").open("wb"))

        def start(*command: str, **more: object) -> None:
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **more)  # type: ignore[call-overload]
            stack.callback(_end, process)

        start(
            programs["Xvfb"],
            "-displayfd",
            str(write),
            "-screen",
            "0",
            f"{size}x24",
            "-nolisten",
            "tcp",
            pass_fds=(write,),
        )
        os.close(write)
        with open(read) as number:
            display = f":{number.readline().strip()}"
        environment = {
            **os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": str(folder), "DISPLAY": display,
            "LIBGL_ALWAYS_SOFTWARE": "1", "MOZ_DISABLE_CONTENT_SANDBOX": "1", "LC_ALL": "C.UTF-8",
        }  # fmt: skip
        start(programs["openbox"], env=environment)
        start(
            programs["dbus-run-session"], "--", programs["thunderbird"], "--no-remote", "--profile", str(profile),
            "--marionette", "--remote-allow-system-access", env=environment,
        )  # fmt: skip
        sock = stack.enter_context(_connected(port))
        yield Thunderbird(sock)


def _connected(port: int) -> socket.socket:
    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=START_SECONDS)
        except OSError:
            assert time.monotonic() < give_up, "Thunderbird did not start"
            time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """The program and all that it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, 15)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def account(user: str, host: str, imap: int, submission: int | None = None) -> dict[str, Pref]:
    """One account, as the dialogue for a new account sets it up: without `submission`, through a tunnel and without a
    password."""
    safe = submission is not None
    return {
        "mail.accountmanager.accounts": "account1",
        "mail.accountmanager.defaultaccount": "account1",
        "mail.account.account1.identities": "id1",
        "mail.account.account1.server": "server1",
        "mail.server.server1.type": "imap",
        "mail.server.server1.name": f"{user}@dom.fr",
        "mail.server.server1.hostname": host,
        "mail.server.server1.port": imap,
        "mail.server.server1.userName": user,
        "mail.server.server1.socketType": 3 if safe else 0,
        "mail.server.server1.authMethod": 3,
        "mail.server.server1.login_at_startup": False,
        "mail.identity.id1.fullName": user.capitalize(),
        "mail.identity.id1.useremail": f"{user}@dom.fr",
        "mail.identity.id1.smtpServer": "smtp1",
        "mail.identity.id1.fcc": True,
        "mail.identity.id1.fcc_folder": f"imap://{user}@{host}/Sent",
        "mail.identity.id1.valid": True,
        "mail.smtpservers": "smtp1",
        "mail.smtp.defaultserver": "smtp1",
        "mail.smtpserver.smtp1.hostname": host,
        "mail.smtpserver.smtp1.port": submission or 9,
        "mail.smtpserver.smtp1.authMethod": 3,
        "mail.smtpserver.smtp1.try_ssl": 3,
        "mail.smtpserver.smtp1.username": user,
    }


def keep_password(client: Thunderbird, host: str, user: str, password: str) -> None:
    """As if the person had typed the password and ticked the box."""
    client.run(
        """
        for (const origin of ["imap://" + given[0], "smtp://" + given[0]]) {
          const login = Cc["@mozilla.org/login-manager/loginInfo;1"].createInstance(Ci.nsILoginInfo);
          login.init(origin, null, origin, given[1], given[2], "", "");
          await Services.logins.addLoginAsync(login);
        }
        """,
        host, user, password,
    )  # fmt: skip


def subjects(client: Thunderbird) -> list[str]:
    """Of what it has in INBOX."""
    found = client.run(TOOLS + "return messages(inbox()).map(m => m.mime2DecodedSubject).sort();")
    assert isinstance(found, list)
    return found


def send(client: Thunderbird, to: str, subject: str, body: str) -> None:
    """Writes a message and has it sent; does not wait until it was."""
    client.run(
        TOOLS
        + """
        const fields = Cc["@mozilla.org/messengercompose/composefields;1"].createInstance(Ci.nsIMsgCompFields);
        [fields.to, fields.subject, fields.body] = given;
        const params = Cc["@mozilla.org/messengercompose/composeparams;1"].createInstance(Ci.nsIMsgComposeParams);
        params.composeFields = fields;
        params.format = Ci.nsIMsgCompFormat.PlainText;
        params.identity = MailServices.accounts.accounts[0].defaultIdentity;
        MailServices.compose.OpenComposeWindowWithParams(null, params);
        let compose;
        for (let n = 0; n < 200 && !(compose?.gMsgCompose && compose.document.readyState == "complete"); n++) {
          await new Promise(r => window3.setTimeout(r, 100));
          compose = Services.wm.getMostRecentWindow("msgcompose");
        }
        await new Promise(r => window3.setTimeout(r, 2000));
        compose.goDoCommand("cmd_sendNow");
        """,
        to, subject, body,
    )  # fmt: skip
