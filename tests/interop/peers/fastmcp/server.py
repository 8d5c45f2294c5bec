"""A server on FastMCP 4, written as its users write one (see ../../README.md for the contract)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "py"))

import dataclasses
import os
import warnings

import mcp_types as t
import tools
import uvicorn
from fastmcp import Context, FastMCP

# Sampling is deprecated in the newest revision; the legacy era has it.
warnings.simplefilter("ignore")
asked = tools.settings()
write = tools.ledger(asked.ledger)
server = FastMCP("fastmcp", version=f"{asked.variant}.0.0")


@dataclasses.dataclass
class Name:
    """What `elicit` asks for."""

    name: str


class Side:
    """What the tools ask of the SDK, for one call."""

    def __init__(self, ctx):
        self.ctx = ctx
        self.progress = ctx.report_progress

    async def sample(self, prompt):
        ask = t.SamplingMessage(role="user", content=t.TextContent(type="text", text=prompt))
        reply = await self.ctx.session.create_message([ask], max_tokens=50, related_request_id=self.ctx.request_id)
        return reply.content.text

    async def elicit(self, message):
        reply = await self.ctx.elicit(message, Name)
        return {"action": reply.action, "content": dataclasses.asdict(reply.data)}

    async def log(self, text):
        await self.ctx.warning(text)

    async def emit(self):
        # Not `ctx.send_notification`, which uses the stream of the call.
        await self.ctx.session.send_resource_updated(tools.NOTE)


async def answer(name, ctx, **args):
    return await tools.call(name, args, Side(ctx), write, asked.variant)


@server.tool
async def echo(text: str, ctx: Context) -> str:
    return await answer("echo", ctx, text=text)


@server.tool
async def count(key: str, ctx: Context) -> str:
    return await answer("count", ctx, key=key)


@server.tool
async def slow(key: str, ms: int, ctx: Context, steps: int = 0) -> str:
    return await answer("slow", ctx, key=key, ms=ms, steps=steps)


@server.tool(annotations={"readOnlyHint": True})
async def read(key: str, ctx: Context) -> str:
    return await answer("read", ctx, key=key)


@server.tool
async def sample(prompt: str, ctx: Context) -> str:
    return await answer("sample", ctx, prompt=prompt)


@server.tool
async def elicit(message: str, ctx: Context) -> str:
    return await answer("elicit", ctx, message=message)


@server.tool
async def log(text: str, ctx: Context) -> str:
    return await answer("log", ctx, text=text)


@server.tool
async def emit(ctx: Context) -> str:
    return await answer("emit", ctx)


@server.tool
async def sleep_cancellable(key: str, ms: int, ctx: Context) -> str:
    return await answer("sleep_cancellable", ctx, key=key, ms=ms)


if asked.variant >= 2:

    @server.tool
    async def extra() -> str:
        return "extra"


@server.prompt
def greet(who: str) -> str:
    return f"Greet {who}"


@server.resource(tools.NOTE, name="note", mime_type="text/plain")
def note() -> str:
    return "a note"


# As a command that speaks on its own stdin and stdout: a process for each session.
if os.environ.get("PEER_STDIO"):
    server.run(transport="stdio", show_banner=False)
    sys.exit()
# By the old transport: a stream for each session.
if os.environ.get("PEER_SSE"):
    uvicorn.run(server.http_app(path="/sse", transport="sse"), host="127.0.0.1", port=asked.port, log_level="warning")
    sys.exit()
app = server.http_app(path="/mcp", json_response=asked.json, stateless_http=asked.stateless)
uvicorn.run(app, host="127.0.0.1", port=asked.port, log_level="warning")
