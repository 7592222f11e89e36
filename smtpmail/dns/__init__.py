"""Questions to DNS: one resolver with one cache."""
