"""Which peers there are, how each is started, and what each can't do.

The one place that knows peers by name. A case that a peer lacks is declared here with its reason, never passed over in silence.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
SETUP = HERE / ".setup"
PEERS = HERE / "peers"
NODE = SETUP / "bin" / "node"


@dataclass(frozen=True)
class Server:
    name: str
    command: tuple
    # The contract of README.md, or server-everything with tools of its own.
    contract: bool = True
    # How it refuses a dead session, for the table.
    dialect: str = ""
    # Whether it has resources/subscribe.
    subscribes: bool = True
    # By the old transport, HTTP+SSE, which is at another path.
    old: bool = False

    @property
    def path(self):
        return "/sse" if self.old else "/mcp"

    def built(self):
        return all(Path(part).exists() for part in self.command if part.startswith("/"))

    def start(self, port, ledger, variant, json):
        """The command line and what it adds to the environment."""
        if not self.contract:
            return [*self.command, "sse" if self.old else "streamableHttp"], {"PORT": str(port)}
        flags = ["--port", str(port), "--ledger", str(ledger), "--variant", str(variant)]
        return [*self.command, *flags, *(["--json"] if json else [])], {"PEER_SSE": "1"} if self.old else {}


@dataclass(frozen=True)
class Client:
    name: str
    command: tuple

    def built(self):
        return all(Path(part).exists() for part in self.command if part.startswith("/"))


def node(*parts):
    return (str(NODE), *map(str, parts))


def python(venv, file):
    return (str(SETUP / f"venv-{venv}" / "bin" / "python"), str(PEERS / file))


EVERYTHING = SETUP / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"

SERVERS = {
    server.name: server
    for server in (
        Server("everything", node("--import", PEERS / "everything/loopback.mjs", EVERYTHING), False, "400, no id"),
        Server("ts1", node(PEERS / "ts1/server.mjs"), dialect="404 -32001"),
        Server("ts2", node(PEERS / "ts2/server.mjs"), dialect="404 -32001"),
        Server("py1", python("py1", "py1/server.py"), dialect='404 -32600, id "server-error"'),
        Server("py2", python("py2", "py2/server.py"), dialect="404 -32600, id null"),
        Server("fastmcp", python("fastmcp", "fastmcp/server.py"), dialect="404 -32600, id null", subscribes=False),
        Server("rmcp", (str(SETUP / "rmcp/server"),), dialect="404 text"),
    )
}
# The same by the old transport, where their SDK has it.
OLD_SERVERS = {name: replace(SERVERS[name], old=True) for name in ("everything", "ts1", "py1", "fastmcp")}
CLIENTS = {
    client.name: client
    for client in (
        Client("ts1", node(PEERS / "ts1/client.mjs")),
        Client("ts2", node(PEERS / "ts2/client.mjs")),
        Client("py1", python("py1", "py1/client.py")),
        Client("py2", python("py2", "py2/client.py")),
        Client("rmcp", (str(SETUP / "rmcp/client"),)),
    )
}

# (case, "server" or "client", name): why not.
LACKS = {
    ("settings-return", "server", "everything"): "keeps no ledger that would show what was asked of it",
    ("settings-return", "server", "fastmcp"): "has no resources/subscribe and keeps the log level to itself",
    ("downtime-read", "server", "everything"): "its echo is no declared read; the answer after the downtime is shown by downtime-5s",
    ("downtime-cancelled", "server", "everything"): "keeps no ledger that would show that the call did not run",
    ("kill-during-call-json", "server", "everything"): "answers as SSE only",
    ("kill-during-call-sse", "server", "everything"): "its one slow tool is a declared read (see kill-during-read)",
    ("kill-during-read", "server", "*contract*"): "the contract has no slow tool that is a read; server-everything has",
    ("tools-changed", "server", "everything"): "always has the same tools",
    ("cancellation", "server", "everything"): "its slow tool does not look at cancellation",
    ("cancellation-after-restart", "server", "everything"): "its slow tool does not look at cancellation",
}


def lacks(case, server, client):
    """Why this pair can't do the case, or None."""
    kind = "*contract*" if server.contract else "*everything*"
    for role, name in (("server", server.name), ("server", kind), ("client", client.name)):
        if reason := LACKS.get((case, role, name)):
            return reason if name.startswith("*") else f"{role} {name}: {reason}"
    return None


def relatch_path():
    return os.environ.get("RELATCH")
