"""The tools of the server contract, once for all Python servers. What an SDK does differently comes in as `side`.

Decides what a tool answers and what the ledger says; knows nothing of sessions or transports.
"""

import argparse
import json
import os
import time

import anyio

NOTE = "relatch://note"


def settings():
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--variant", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--stateless", action="store_true")
    return parser.parse_args()


def ledger(path):
    def write(entry):
        line = json.dumps({**entry, "pid": os.getpid(), "at": int(time.time() * 1000)}) + "\n"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(file, line.encode())
        finally:
            os.close(file)

    return write


def fields(properties, required=None):
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required}


STRING = {"type": "string"}
INTEGER = {"type": "integer"}
TOOLS = [
    {"name": "echo", "description": "Says the text again", "inputSchema": fields({"text": STRING})},
    {"name": "count", "description": "Writes one line to the ledger", "inputSchema": fields({"key": STRING})},
    {
        "name": "slow",
        "description": "Writes to the ledger, then takes its time",
        "inputSchema": fields({"key": STRING, "ms": INTEGER, "steps": INTEGER}, ["key", "ms"]),
    },
    {
        "name": "read",
        "description": "As count, declared a read",
        "inputSchema": fields({"key": STRING}),
        "annotations": {"readOnlyHint": True},
    },
    {"name": "sample", "description": "Asks the client for a completion", "inputSchema": fields({"prompt": STRING})},
    {"name": "elicit", "description": "Asks the client for a name", "inputSchema": fields({"message": STRING})},
    {"name": "log", "description": "Sends a log message on the stream of the call", "inputSchema": fields({"text": STRING})},
    {"name": "emit", "description": "Sends a notification on the standing stream", "inputSchema": fields({})},
    {
        "name": "sleep_cancellable",
        "description": "Waits until cancelled",
        "inputSchema": fields({"key": STRING, "ms": INTEGER}),
    },
]
EXTRA = {"name": "extra", "description": "Only a newer server has it", "inputSchema": fields({})}
FORM = fields({"name": STRING})


def listed(variant):
    return [*TOOLS, EXTRA] if variant >= 2 else TOOLS


async def slow(key, ms, steps, side, write):
    write({"key": key})
    for step in range(1, steps + 1):
        await anyio.sleep(ms / 1000 / (steps + 1))
        await side.progress(step, steps)
    await anyio.sleep(ms / 1000 / (steps + 1))
    return f"{key} took {ms} ms"


async def sleep_cancellable(key, ms, write):
    write({"key": key})
    try:
        await anyio.sleep(ms / 1000)
    except anyio.get_cancelled_exc_class():
        write({"key": key, "cancelled": True})
        raise
    return "slept"


async def call(name, args, side, write, variant):
    """The text of the answer, or None for a tool that this server does not have."""
    match name:
        case "echo":
            return args["text"]
        case "count" | "read":
            write({"key": args["key"]})
            return f"{args['key']} ran in pid {os.getpid()}"
        case "slow":
            return await slow(args["key"], args["ms"], args.get("steps", 0), side, write)
        case "sample":
            return await side.sample(args["prompt"])
        case "elicit":
            return json.dumps(await side.elicit(args["message"]))
        case "log":
            await side.log(args["text"])
            return "logged"
        case "emit":
            await side.emit()
            return "emitted"
        case "sleep_cancellable":
            return await sleep_cancellable(args["key"], args["ms"], write)
        case "extra" if variant >= 2:
            return "extra"
    return None
