"""The disk: new files, group commit, mailboxes, the queue's files."""
