"""A server on the Python SDK 1.x (see ../../README.md for the contract)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "py"))

import contextlib
import os
from types import SimpleNamespace

import anyio
import mcp.types as t
import tools
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.lowlevel.helper_types import ReadResourceContents
from mcp.server.sse import SseServerTransport
from mcp.server.stdio import stdio_server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from pydantic import AnyUrl
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Mount, Route

asked = tools.settings()
write = tools.ledger(asked.ledger)


server = Server("py1", version=f"{asked.variant}.0.0")


def side():
    ctx = server.request_context
    session, request_id = ctx.session, ctx.request_id

    async def progress(step, total):
        if ctx.meta and ctx.meta.progressToken is not None:
            await session.send_progress_notification(ctx.meta.progressToken, step, total, related_request_id=str(request_id))

    async def sample(prompt):
        ask = t.SamplingMessage(role="user", content=t.TextContent(type="text", text=prompt))
        reply = await session.create_message([ask], max_tokens=50, related_request_id=request_id)
        return reply.content.text

    async def elicit(message):
        reply = await session.elicit_form(message, tools.FORM, related_request_id=request_id)
        return reply.model_dump(mode="json", exclude_none=True)

    async def log(text):
        await session.send_log_message("warning", text, "py1", related_request_id=request_id)

    async def emit():
        await session.send_resource_updated(AnyUrl(tools.NOTE))

    return SimpleNamespace(progress=progress, sample=sample, elicit=elicit, log=log, emit=emit)


@server.list_tools()
async def list_tools():
    return [t.Tool.model_validate(tool) for tool in tools.listed(asked.variant)]


@server.call_tool()
async def call_tool(name, arguments):
    answer = await tools.call(name, arguments, side(), write, asked.variant)
    if answer is None:
        raise ValueError(f"Unknown tool: {name}")
    return [t.TextContent(type="text", text=answer)]


@server.list_prompts()
async def list_prompts():
    return [t.Prompt(name="greet", arguments=[t.PromptArgument(name="who", required=True)])]


@server.get_prompt()
async def get_prompt(name, arguments):
    greeting = t.TextContent(type="text", text=f"Greet {(arguments or {}).get('who')}")
    return t.GetPromptResult(messages=[t.PromptMessage(role="user", content=greeting)])


@server.list_resources()
async def list_resources():
    return [t.Resource(uri=AnyUrl(tools.NOTE), name="note", mimeType="text/plain")]


@server.read_resource()
async def read_resource(uri):
    return [ReadResourceContents(content="a note", mime_type="text/plain")]


@server.set_logging_level()
async def set_logging_level(level):
    write({"event": "set_level", "level": level})


@server.subscribe_resource()
async def subscribe_resource(uri):
    write({"event": "subscribe", "uri": str(uri)})


@server.unsubscribe_resource()
async def unsubscribe_resource(uri):
    write({"event": "unsubscribe", "uri": str(uri)})


sessions = StreamableHTTPSessionManager(app=server, json_response=asked.json, stateless=asked.stateless)


class Endpoint:
    """An ASGI application, since `Route` would wrap a function."""

    async def __call__(self, scope, receive, send):
        await sessions.handle_request(scope, receive, send)


@contextlib.asynccontextmanager
async def lifespan(_app):
    async with sessions.run():
        yield


async def on_stdio():
    async with stdio_server() as (read, write_to):
        await server.run(read, write_to, server.create_initialization_options())


# As a command that speaks on its own stdin and stdout: a process for each session.
if os.environ.get("PEER_STDIO"):
    anyio.run(on_stdio)
    sys.exit()

old = SseServerTransport("/messages/")


async def stream(request):
    async with old.connect_sse(request.scope, request.receive, request._send) as (read, write_to):
        await server.run(read, write_to, server.create_initialization_options())
    return Response()


# By the old transport, as the SDK's own `run(transport="sse")` has it: a stream for each session.
if os.environ.get("PEER_SSE"):
    routes = [Route("/sse", endpoint=stream), Mount("/messages/", app=old.handle_post_message)]
    app = Starlette(routes=routes)
else:
    app = Starlette(routes=[Route("/mcp", endpoint=Endpoint())], lifespan=lifespan)
uvicorn.run(app, host="127.0.0.1", port=asked.port, log_level="warning")
