"""Crashes of a server under load: SIGKILL at random moments, and power cuts. `make test-crash` is the long form."""
