"""Runs a Python SDK's server as it is, at a unix socket: `at_socket.py SOCKET SERVER.py …`."""

import runpy
import sys

import uvicorn

_, path, server, *rest = sys.argv
run = uvicorn.run
uvicorn.run = lambda app, **_: run(app, uds=path, log_level="warning")
sys.argv = [server, *rest]
runpy.run_path(server, run_name="__main__")
