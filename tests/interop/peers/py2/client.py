"""A client on the Python SDK 2.x (see ../../README.md for the contract)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "py"))

import contextlib
import os
import warnings

import anyio
import mcp_types as t
from commands import event, obey, plain, sampled
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

# Much of the legacy era is deprecated in this SDK and warns on every use.
warnings.simplefilter("ignore")
client = None


async def on_sampling(_context, params):
    said = t.TextContent(type="text", text=sampled(params))
    return t.CreateMessageResult(role="assistant", content=said, model="fixed", stop_reason="endTurn")


async def on_elicitation(_context, params):
    event("elicitation", message=params.message)
    return t.ElicitResult(action="accept", content={"name": "relatch"})


async def on_message(message):
    match message:
        case Exception():
            event("stream_error", message=str(message) or type(message).__name__)
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
    global client
    async with contextlib.AsyncExitStack() as stack:
        if program := command.get("command"):
            target = stdio_client(StdioServerParameters(command=program[0], args=program[1:], env=dict(os.environ)))
        else:
            http = await stack.enter_async_context(create_mcp_http_client(headers=command.get("headers")))
            target = streamable_http_client(command["url"], http_client=http)
        client = await stack.enter_async_context(
            Client(
                target,
                # `auto` is the SDK's own default: it probes for the modern era first.
                mode=command.get("era", "auto"),
                sampling_callback=on_sampling,
                elicitation_callback=on_elicitation,
                message_handler=on_message,
                client_info=t.Implementation(name="interop-py2", version="1.0.0"),
            )
        )
        yield {"server": plain(client.server_info), "protocol": client.protocol_version}


async def call(command):
    async def on_progress(step, total, message):
        event("progress", n=command["n"], progress=step, total=total, message=message)

    timeout = command.get("timeout_ms")
    return await client.call_tool(
        command["tool"],
        command.get("args") or {},
        read_timeout_seconds=timeout / 1000 if timeout else None,
        progress_callback=on_progress if command.get("progress") else None,
    )


async def cancelling(_n):
    """The SDK tells the server by itself when the awaiting task is cancelled."""


OPS = {
    "call": call,
    "list_tools": lambda _: client.list_tools(),
    "list_prompts": lambda _: client.list_prompts(),
    "get_prompt": lambda c: client.get_prompt(c["name"], c.get("args")),
    "list_resources": lambda _: client.list_resources(),
    "read_resource": lambda c: client.read_resource(c["uri"]),
    "ping": lambda _: client.send_ping(),
    "set_level": lambda c: client.set_logging_level(c.get("level", "debug")),
    "subscribe": lambda c: client.session.subscribe_resource(c["uri"]),
}

anyio.run(obey, connect, OPS, cancelling)
