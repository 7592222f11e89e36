"""Whether mail is what it says it is: DKIM, SPF, DMARC, and the field that tells of them. DNS answers are passed in."""
