"""A server on the Python SDK 2.x, with sessions (see ../../README.md for the contract)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "py"))

import warnings
from types import SimpleNamespace

import mcp_types as t
import tools
import uvicorn
from mcp.server.lowlevel import Server

# Sampling and logging are deprecated in the newest revision; the legacy era has them.
warnings.simplefilter("ignore")
asked = tools.settings()
write = tools.ledger(asked.ledger)


def side_of(ctx):
    session, request_id = ctx.session, ctx.request_id

    async def sample(prompt):
        ask = t.SamplingMessage(role="user", content=t.TextContent(type="text", text=prompt))
        reply = await session.create_message([ask], max_tokens=50, related_request_id=request_id)
        return reply.content.text

    async def elicit(message):
        reply = await session.elicit_form(message, tools.FORM, related_request_id=request_id)
        return reply.model_dump(mode="json", exclude_none=True)

    async def log(text):
        await session.send_log_message("warning", text, "py2", related_request_id=request_id)

    async def emit():
        await session.send_resource_updated(tools.NOTE)

    return SimpleNamespace(progress=session.report_progress, sample=sample, elicit=elicit, log=log, emit=emit)


async def list_tools(_ctx, _params):
    return t.ListToolsResult.model_validate({"tools": tools.listed(asked.variant)})


async def call_tool(ctx, params):
    answer = await tools.call(params.name, params.arguments or {}, side_of(ctx), write, asked.variant)
    said = t.TextContent(type="text", text=f"Unknown tool: {params.name}" if answer is None else answer)
    return t.CallToolResult(content=[said], is_error=answer is None)


async def list_prompts(_ctx, _params):
    return t.ListPromptsResult(prompts=[t.Prompt(name="greet", arguments=[t.PromptArgument(name="who", required=True)])])


async def get_prompt(_ctx, params):
    greeting = t.TextContent(type="text", text=f"Greet {(params.arguments or {}).get('who')}")
    return t.GetPromptResult(messages=[t.PromptMessage(role="user", content=greeting)])


async def list_resources(_ctx, _params):
    return t.ListResourcesResult(resources=[t.Resource(uri=tools.NOTE, name="note", mime_type="text/plain")])


async def read_resource(_ctx, params):
    return t.ReadResourceResult(contents=[t.TextResourceContents(uri=params.uri, mime_type="text/plain", text="a note")])


async def set_level(_ctx, params):
    write({"event": "set_level", "level": params.level})
    return t.EmptyResult()


async def subscribe(_ctx, params):
    write({"event": "subscribe", "uri": str(params.uri)})
    return t.EmptyResult()


async def unsubscribe(_ctx, params):
    write({"event": "unsubscribe", "uri": str(params.uri)})
    return t.EmptyResult()


server = Server(
    "py2",
    version=f"{asked.variant}.0.0",
    on_list_tools=list_tools,
    on_call_tool=call_tool,
    on_list_prompts=list_prompts,
    on_get_prompt=get_prompt,
    on_list_resources=list_resources,
    on_read_resource=read_resource,
    on_set_logging_level=set_level,
    on_subscribe_resource=subscribe,
    on_unsubscribe_resource=unsubscribe,
)
uvicorn.run(server.streamable_http_app(json_response=asked.json, stateless_http=asked.stateless), host="127.0.0.1", port=asked.port, log_level="warning")
