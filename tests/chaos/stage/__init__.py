"""The chaos tests' own code; `../run.py` is the way in."""
