"""What a check has to say of one thing it looked at: a setting, a certificate, a DNS record."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """`level` is ok, warning, or error; `advice` says what to do unless it is ok."""

    check: str
    """What kind of thing it is about."""
    subject: str
    level: str
    text: str
    advice: str = ""

    def __str__(self) -> str:
        """A row of a table, the advice below it."""
        line = f"{self.level:8}{self.check:12}{self.subject}: {self.text}"
        return f"{line}\n{'':20}-> {self.advice}" if self.advice else line

    @property
    def line(self) -> str:
        """All of it in one line, without the level."""
        return f"{self.subject}: {self.text}" + (f"; {self.advice}" if self.advice else "")

    def as_dict(self) -> dict[str, str]:
        """For programs."""
        return asdict(self)
