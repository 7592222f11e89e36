"""One delivery: where to (resolver), how (client, tls), and what the sender is told (dsn)."""
