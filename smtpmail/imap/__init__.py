"""IMAP (RFC 3501, RFC 9051) over the folders of the spool: a dialogue without sockets, like `smtp/`."""
