"""A client on the Python SDK 1.x (see ../../README.md for the contract)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "py"))

import contextlib
import os
from datetime import timedelta

import anyio
import mcp.types as t
from commands import event, obey, plain, sampled
from mcp.client.session import ClientSession
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client
from pydantic import AnyUrl

session = None
ids = {}


async def on_sampling(_context, params):
    said = t.TextContent(type="text", text=sampled(params))
    return t.CreateMessageResult(role="assistant", content=said, model="fixed", stopReason="endTurn")


async def on_elicitation(_context, params):
    event("elicitation", message=params.message)
    return t.ElicitResult(action="accept", content={"name": "relatch"})


async def on_message(message):
    if isinstance(message, Exception):
        event("stream_error", message=str(message) or type(message).__name__)
    elif isinstance(message, t.ServerNotification):
        match message.root:
            case t.LoggingMessageNotification(params=params):
                event("log", **plain(params))
            case t.ResourceUpdatedNotification(params=params):
                event("resource_updated", **plain(params))
            case t.ToolListChangedNotification():
                event("list_changed", kind="tools")
            case t.PromptListChangedNotification():
                event("list_changed", kind="prompts")
            case t.ResourceListChangedNotification():
                event("list_changed", kind="resources")


@contextlib.asynccontextmanager
async def connect(command):
    global session
    async with contextlib.AsyncExitStack() as stack:
        if program := command.get("command"):
            environment = {**os.environ, **(command.get("env") or {})}
            spawned = StdioServerParameters(command=program[0], args=program[1:], env=environment)
            streams = await stack.enter_async_context(stdio_client(spawned))
        else:
            http = await stack.enter_async_context(create_mcp_http_client(headers=command.get("headers")))
            streams = await stack.enter_async_context(streamable_http_client(command["url"], http_client=http))
        session = await stack.enter_async_context(
            ClientSession(
                streams[0],
                streams[1],
                sampling_callback=on_sampling,
                elicitation_callback=on_elicitation,
                message_handler=on_message,
                client_info=t.Implementation(name="interop-py1", version="1.0.0"),
            )
        )
        greeting = await session.initialize()
        yield {"server": plain(greeting.serverInfo), "protocol": greeting.protocolVersion}


async def call(command):
    n = command["n"]

    async def on_progress(step, total, message):
        event("progress", n=n, progress=step, total=total, message=message)

    timeout = command.get("timeout_ms")
    # The SDK has no public name for the id of a request, and cancelling needs it.
    ids[n] = session._request_id
    return await session.call_tool(
        command["tool"],
        command.get("args") or {},
        read_timeout_seconds=timedelta(milliseconds=timeout) if timeout else None,
        progress_callback=on_progress if command.get("progress") else None,
    )


async def cancelling(n):
    params = t.CancelledNotificationParams(requestId=ids[n], reason="asked to")
    await session.send_notification(t.ClientNotification(t.CancelledNotification(params=params)))


OPS = {
    "call": call,
    "list_tools": lambda _: session.list_tools(),
    "list_prompts": lambda _: session.list_prompts(),
    "get_prompt": lambda c: session.get_prompt(c["name"], c.get("args")),
    "list_resources": lambda _: session.list_resources(),
    "read_resource": lambda c: session.read_resource(AnyUrl(c["uri"])),
    "ping": lambda _: session.send_ping(),
    "set_level": lambda c: session.set_logging_level(c.get("level", "debug")),
    "subscribe": lambda c: session.subscribe_resource(AnyUrl(c["uri"])),
}

anyio.run(obey, connect, OPS, cancelling)
