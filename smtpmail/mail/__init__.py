"""What everything is made of: addresses, envelopes, header fields, notifications, waits. Imports nothing above it."""
