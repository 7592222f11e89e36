"""A stream of mail to port 25 of ADDRESS, one connection a message, from a patient server: what is not accepted is
tried again. Ends when the file STOP is there, and prints what happened as JSON. Runs on the remote host.

    stream.py ADDRESS SUBJECT STOP
"""

import collections
import json
import os
import smtplib
import sys
import time

address, subject, stop = sys.argv[1:]
outcomes: collections.Counter[str] = collections.Counter()
number = 0
while not os.path.exists(stop):
    give_up = time.monotonic() + 60
    while True:
        try:
            client = smtplib.SMTP(address, 25, local_hostname="remote.example.net", timeout=60)
            text = f"Subject: {subject}\r\nX-Number: {number}\r\n\r\nhello\r\n"
            client.sendmail("alice@example.net", ["bob@dom.fr"], text)
            # Once it has been accepted, how the connection ends does not matter.
            client.close()
            outcomes["accepted"] += 1
            break
        except ConnectionRefusedError:
            outcomes["refused connection"] += 1
        except smtplib.SMTPServerDisconnected:
            outcomes["closed"] += 1
        except smtplib.SMTPResponseException as error:
            outcomes[str(error.smtp_code)] += 1
        if time.monotonic() > give_up:
            sys.exit(f"message {number} was never accepted: {dict(outcomes)}")
        time.sleep(0.05)
    number += 1
    time.sleep(0.005)
print(json.dumps(outcomes))
