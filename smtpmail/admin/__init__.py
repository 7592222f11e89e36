"""What people ask the server: its queue, the way of a message, DNS records, a check of the settings."""
