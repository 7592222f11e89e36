"""The folders of a user as a mail reader sees and changes them: what IMAP is built on (docs/formats.md)."""
