"""`python -m smtpmail` is the same as the command `smtpmail`."""

from smtpmail.cli import main

main()
