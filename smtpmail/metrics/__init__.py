"""Metrics: what the log tells, counted in memory that all processes share, and read by Prometheus and the like."""
