"""Every reply the server gives: code, enhanced status code (RFC 3463) and text, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Reply:
    """A reply of one line (RFC 5321 4.2); `enhanced` is empty where RFC 2034 wants none."""

    code: int
    enhanced: str
    text: str

    @cached_property
    def wire(self) -> bytes:
        """The line as it goes over the wire."""
        return f"{self}\r\n".encode()

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"

    @property
    def accepted(self) -> bool:
        return self.code < 400


class Refusal(Exception):
    """A command or a message that is not accepted, with the reply that says so."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


def greeting(hostname: str) -> Reply:
    return Reply(220, "", f"{hostname} ESMTP smtpmail")


def multiline(code: int, lines: list[str]) -> bytes:
    """A reply of several lines, as EHLO's is."""
    *first, last = lines
    return "".join([f"{code}-{line}\r\n" for line in first] + [f"{code} {last}\r\n"]).encode()


# 2xx, 3xx
OK = Reply(250, "2.0.0", "Ok")
SENDER_OK = Reply(250, "2.1.0", "Sender ok")
RECIPIENT_OK = Reply(250, "2.1.5", "Recipient ok")
START_DATA = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")
BYE = Reply(221, "2.0.0", "Bye")
HELP = Reply(214, "2.0.0", "Commands: HELO EHLO STARTTLS MAIL RCPT DATA BDAT RSET NOOP VRFY HELP QUIT EXIT")
CANNOT_VRFY = Reply(252, "2.5.0", "Cannot verify, but will take mail and try to deliver it")


def queued(message_id: str) -> Reply:
    """The acknowledgement: from here on the message is ours."""
    return Reply(250, "2.0.0", f"Ok: queued as {message_id}")


def chunk_ok(octets: int) -> Reply:
    return Reply(250, "2.0.0", f"{octets} octets received")


# The session must end
SHUTTING_DOWN = Reply(421, "4.3.2", "Server is shutting down, try again soon")
TIMED_OUT = Reply(421, "4.4.2", "Timed out")
TOO_SLOW = Reply(421, "4.4.2", "Too slow: the time for one message is over")
TOO_MANY_CONNECTIONS = Reply(421, "4.3.2", "Too many connections, try again later")
TOO_MANY_FROM_CLIENT = Reply(421, "4.7.0", "Too many connections from your address, try again later")
TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors")
OUT_OF_SYNC = Reply(554, "5.5.0", "Improper pipelining: wait for the reply before you send more")
NOT_SMTP = Reply(554, "5.5.0", "This is a mail server: speak SMTP")
NOT_HTTP = Reply(421, "4.7.0", "This is a mail server, not a web server")
INTERNAL_ERROR = Reply(421, "4.3.0", "Internal error, try again later")

# Commands
SYNTAX_ERROR = Reply(500, "5.5.2", "Command unrecognized")
LINE_TOO_LONG = Reply(500, "5.5.6", "Line too long")
BARE_LINE_FEED = Reply(500, "5.5.2", "A line must end with CR LF")
NOT_IMPLEMENTED = Reply(502, "5.5.1", "Command not implemented")
NO_TLS = Reply(502, "5.5.1", "STARTTLS not offered")
TLS_ACTIVE = Reply(503, "5.5.1", "TLS is active already")
NEED_HELO = Reply(503, "5.5.1", "Send HELO or EHLO first")
NESTED_MAIL = Reply(503, "5.5.1", "Nested MAIL: a transaction is open already")
NEED_MAIL = Reply(503, "5.5.1", "Need MAIL before RCPT")
NEED_RCPT = Reply(503, "5.5.1", "Need RCPT (and a recipient that was accepted)")
NO_VALID_RECIPIENTS = Reply(554, "5.5.1", "No valid recipients")
BDAT_IN_PROGRESS = Reply(503, "5.5.1", "A BDAT sequence is open: send BDAT or RSET")


def bad_arguments(usage: str) -> Reply:
    return Reply(501, "5.5.4", f"Syntax: {usage}")


def bad_parameter(name: str, why: str) -> Reply:
    return Reply(501, "5.5.4", f"Bad {name} parameter: {why}")


def unknown_parameter(name: str) -> Reply:
    return Reply(555, "5.5.4", f"Parameter {name} not recognized or not implemented")


# Addresses
BAD_SENDER_SYNTAX = Reply(501, "5.1.7", "Bad sender address syntax")
BAD_RECIPIENT_SYNTAX = Reply(501, "5.1.3", "Bad recipient address syntax")
NEED_AUTHENTICATION = Reply(530, "5.7.0", "Authentication required")
AUTHENTICATED = Reply(235, "2.7.0", "Authentication successful")
AUTHENTICATION_FAILED = Reply(535, "5.7.8", "Wrong user or password")
AUTHENTICATION_ABORTED = Reply(501, "5.7.0", "Authentication aborted")
AUTHENTICATED_ALREADY = Reply(503, "5.5.1", "Authenticated already")
UNKNOWN_MECHANISM = Reply(504, "5.5.4", "This mechanism is not known here: PLAIN and LOGIN are")
NOT_YOUR_ADDRESS = Reply(553, "5.7.1", "Not an address of yours: send as yourself")
NOT_YOUR_FROM = Reply(550, "5.7.1", "From is not an address of yours: send as yourself")
NEED_SMTPUTF8 = Reply(553, "5.6.7", "Address is not ASCII: SMTPUTF8 is needed in MAIL")
NO_SUCH_USER = Reply(550, "5.1.1", "No such user here")
RELAY_DENIED = Reply(550, "5.7.1", "Relaying denied: this listener takes mail for local users only")
ALIASES_UNREADABLE = Reply(451, "4.3.0", "The list of aliases cannot be read now, try again later")
ALIAS_BROKEN = Reply(451, "4.3.5", "Where this address leads cannot be told now, try again later")
BLOCKED_BY_RECIPIENT = Reply(550, "5.7.1", "The recipient takes no mail from this sender")
SENDER_BLOCKED = Reply(550, "5.7.1", "No mail is taken from this sender here")
ACCOUNT_LIMITED = Reply(450, "4.7.1", "Too much mail from this account in an hour, try again later")
FORWARDING_LOOP = Reply(554, "5.4.6", "Mail forwarding loop: this message has been at this address before")
USERS_UNREADABLE = Reply(451, "4.3.0", "The list of users cannot be read now, try again later")
TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "Too many recipients: send the rest in another transaction")


def closed(text: str) -> Reply:
    """The refusal of an alias with :fail:, in the words of the administrator."""
    return Reply(550, "5.2.1", text)


def bad_return_address(why: str) -> Reply:
    return Reply(550, "5.1.1", f"This return address is not valid: {why}")


# Messages
TOO_LARGE = Reply(552, "5.3.4", "Message too large")
HEADER_TOO_LARGE = Reply(552, "5.3.4", "The header of the message is too large")
TOO_MANY_HOPS = Reply(554, "5.4.6", "Too many hops: this message loops")
NO_SPACE = Reply(452, "4.3.1", "Not enough storage now, try again later")
STORAGE_ERROR = Reply(451, "4.3.0", "The message cannot be stored now, try again later")
MAILBOX_BUSY = Reply(451, "4.2.0", "The mailbox is locked by another program, try again later")
