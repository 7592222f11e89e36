"""Several hosts, one set of mailboxes: servers on their own mounts of a GlusterFS volume, in namespaces.

`make test-cluster` is the long form. Needs root and GlusterFS (tests/cluster/setup).
"""
