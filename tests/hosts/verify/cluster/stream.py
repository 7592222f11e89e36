"""Hands Postfix one message after the other for bob@dom.fr, each with a number, until the file STOP is there; prints
how many there were. Runs on the remote host.

    stream.py SUBJECT STOP
"""

import os
import subprocess
import sys
import time

subject, stop = sys.argv[1:]
number = 0
while not os.path.exists(stop):
    text = f"From: alice@example.net\nTo: bob@dom.fr\nSubject: {subject}\nX-Number: {number}\n\nhello\n"
    subprocess.run(["/usr/sbin/sendmail", "-f", "alice@example.net", "bob@dom.fr"], input=text, text=True, check=True)
    number += 1
    time.sleep(0.2)
print(number)
