"""A stream of mail: COUNT messages to port 25 of ADDRESS, one connection each, from a patient server: what is not
accepted is tried again. Prints what happened as JSON. Runs on the remote host: stream.py ADDRESS COUNT SUBJECT
"""

import collections
import json
import smtplib
import sys
import time

address, count, subject = sys.argv[1], int(sys.argv[2]), sys.argv[3]
outcomes = collections.Counter()
for number in range(count):
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
print(json.dumps(outcomes))
