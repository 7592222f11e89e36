"""smtpmail: a very light personal mail server."""

__version__ = "0.1.0"
