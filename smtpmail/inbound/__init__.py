"""The way in: sockets, listeners, admission, connections."""
