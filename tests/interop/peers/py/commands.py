"""The client contract: JSON lines on stdin, answers and events on stdout.

Decides how a command is answered; `ops` (name -> coroutine function taking the command) do what it says on an SDK's client.
"""

import json
import sys

import anyio
import anyio.to_thread


def say(line):
    sys.stdout.write(json.dumps(line, default=str) + "\n")
    sys.stdout.flush()


def event(name, **details):
    say({"event": name, **details})


def plain(value):
    """What a pydantic model says on the wire; anything else as it is."""
    if hasattr(value, "model_dump"):
        return value.model_dump(by_alias=True, mode="json", exclude_none=True)
    return value


def sampled(params):
    """The text that every client answers to a server's sampling request."""
    content = params.messages[-1].content
    content = content[0] if isinstance(content, list) else content
    event("sampling", prompt=content.text)
    return f"sampled: {content.text}"


def failure(error):
    # A group of one is how a task group reports what happened inside it.
    while isinstance(error, BaseExceptionGroup) and error.exceptions:
        error = error.exceptions[0]
    known = getattr(error, "error", None)
    return {
        "message": getattr(known, "message", None) or str(error) or type(error).__name__,
        "code": getattr(known, "code", None),
        "data": plain(getattr(known, "data", None)),
        "kind": type(error).__name__,
    }


async def obey(connect, ops, cancelling):
    """`connect(command)` is an async context manager; it stays open in one task, as task groups ask for.

    `cancelling(n)` is called when a running command is cancelled.
    """
    running = {}
    closing = anyio.Event()

    async def answer(command):
        n = command.get("n")
        scope = running[n] = anyio.CancelScope()
        try:
            with scope:
                if command["op"] not in ops:
                    raise ValueError(f"unknown op {command['op']}")
                say({"n": n, "ok": True, "result": plain(await ops[command["op"]](command)) or {}})
            if scope.cancelled_caught:
                say({"n": n, "ok": False, "error": {"message": "cancelled by the caller", "code": None, "kind": "Cancelled"}})
        except Exception as error:
            say({"n": n, "ok": False, "error": failure(error)})
        finally:
            running.pop(n, None)

    async def hold(command):
        connected = False
        try:
            async with connect(command) as result:
                connected = True
                say({"n": command["n"], "ok": True, "result": plain(result) or {}})
                await closing.wait()
        except BaseException as error:
            if isinstance(error, anyio.get_cancelled_exc_class()):
                raise
            # A connection that dies later than `connect` has nobody to answer to.
            if connected:
                event("closed", error=failure(error))
            else:
                say({"n": command["n"], "ok": False, "error": failure(error)})

    async with anyio.create_task_group() as group:
        while line := await anyio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True):
            if not line.strip():
                continue
            command = json.loads(line)
            match command["op"]:
                case "connect":
                    group.start_soon(hold, command)
                case "cancel":
                    if scope := running.get(command["of"]):
                        await cancelling(command["of"])
                        scope.cancel()
                    say({"n": command.get("n"), "ok": True, "result": {}})
                case "close":
                    closing.set()
                    say({"n": command.get("n"), "ok": True, "result": {}})
                case _:
                    group.start_soon(answer, command)
        closing.set()
        group.cancel_scope.cancel()
