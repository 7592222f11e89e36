"""The protocol without I/O: bytes in, replies and actions out."""
