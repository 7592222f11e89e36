"""Users and routing: an address becomes a list of routes."""
