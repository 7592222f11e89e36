"""Mail that waits to leave: on disk (store), when it is tried (policy), who does it (runner)."""
