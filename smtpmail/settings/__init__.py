"""Every setting once, how text becomes its value, and what only this machine can tell."""
