"""The way out: the queue's runner, the courier, the client connection, destinations, TLS."""
