"""The interoperation tests' own code; `../run.py` is the way in."""
