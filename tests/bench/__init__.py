"""smtpmail and Postfix side by side on one disk in one run: `python -m tests.bench --help`, docs/performance.md."""
