"""The files that people write, as their manual pages tell them; docs/addresses.md has the same examples."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FilePage:
    """A page of section 5: paragraphs; one that begins with \\b keeps its lines."""

    name: str
    what: str
    text: str


USERS = """
The file of --users: one user a line, `#` begins a comment. Names are compared without case; the mail of `bob+anything`
is bob's. The first takes the mail of postmaster, if no user has that name.

The file is read again when it changes; a line that names no user is logged and left out. While the file cannot be
read, recipients get 451 and come again later.
"""

ALIASES = """
The file of --aliases: where addresses lead. A line is `name: target, target ...`; one that begins with a blank goes on
with the line before; `#` begins a comment.

\b
root: bob                                    # the line that every host needs
sales: bob, alice@example.net,
    carol@example.org                        # a line that begins with a blank goes on
bob: \\bob, bob@example.net                   # a copy stays here: \\bob is the mailbox itself
bob@second.fr: carol                         # a whole address
@second.fr: bob                              # every other address of this domain
bob+shop: :fail: This address is closed      # refused with 550 5.2.1 and this text
noreply: :blackhole:                         # taken and dropped
team: :include:/etc/smtpmail/team            # the targets in a file, one or more a line
owner-team: bob                              # bounces of what goes to team

A line for the whole address comes first, then one for the local part, then a user, then `@domain`; each with the
detail behind a `+` first, then without. Names are compared without case. `owner-NAME` is the envelope sender of what
goes to NAME. Programs (`|`) and files (`/`) are refused: the server has no privilege to lend.

The file is read again when it changes; one with a mistake changes nothing. An address that loops, or leads to more than
1000 others, gets 451. `smtpmail aliases ADDRESS` shows where an address leads; smtpmail-check(1) judges the file.
"""

FORWARD = """
The file .forward in the mailbox folder of a user: where their mail goes on to. Addresses, one or more a line, `#`
begins a comment; `\\bob` keeps a copy.

\b
bob@example.net
\\bob

What cannot be understood or takes no mail loses nothing: a copy stays in the mailbox. Programs and files are refused.
At most 100 addresses and 64 KiB; a link, a FIFO or a device is not followed. Mail of others leaves with an envelope
sender of this host (SRS), to which bounces find their way back. What comes back is not forwarded again.
"""

BLOCKED = """
The file of --blocked: senders from whom no mail is taken, refused at MAIL. The file .blocked in the mailbox folder of
a user does the same for them, refused at RCPT. An address or a domain a line; `#` begins a comment.

\b
spam@example.net            # an address, with all its details
example.org                 # a domain and all below it

Both are read again when they change. A line that makes no sense blocks nobody. Bounces are never blocked.
"""

FILES = (
    FilePage("smtpmail-users", "the local users of smtpmail", USERS),
    FilePage("smtpmail-aliases", "where addresses lead that are no users", ALIASES),
    FilePage("smtpmail-forward", ".forward, where a user's mail goes on to", FORWARD),
    FilePage("smtpmail-blocked", "senders from whom no mail is taken, and .blocked of a user", BLOCKED),
)
