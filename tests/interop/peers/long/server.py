"""A scripted server whose answers are long, and break where the call says (standard library only).

Speaks as much MCP as a client needs to begin; `short{key}` answers as any tool does, `long{key, …}` as its arguments say:

    form     json | sse
    layout   first | last    where the id stands; `result` shows at once
             pretty          many tokens with line breaks between them, the id last
             late            `result` and id show behind 70 KiB of blanks
             error           a top-level error as long as a result would be
    size     bytes of text, about
    framing  chunked | length | close    how HTTP says where the body ends
    before   so many progress events go before the answer (sse)
    cut      where it ends too early, see `Cut`; none: it is whole
    end      fin | rst
    ids      none | lost | kept    whether events are numbered, and whether GET with Last-Event-ID brings the rest
    waits    the answer waits until the file LEDGER.go-KEY is there
    polls    so often the server closes the numbered stream, with a `retry`, before it answers

Each execution is a line of the ledger (`{"key"}`), each cut another (`{"cut": key, "at": seconds}`), each resumption too.
"""

import argparse
import hashlib
import json
import os
import socket
import socketserver
import struct
import threading
import time

MIB = 1024 * 1024
PIECE = 60_001  # no power of two: pieces end where nothing else does
# What is hard about text: escapes, a surrogate pair, characters of two to four bytes; as it stands on the wire.
ESCAPE, LETTER = b"\\u00e9", "漢".encode()
BLOCK = b"0123456789abcdef" * 250 + 'Grüße 漢字 😀 '.encode() + rb'\n\"\\' + ESCAPE + rb"\ud83d\ude00\/\t"
PLAIN = json.loads(b'"' + BLOCK + b'"')
PARTS = 16  # blocks to a content item of the pretty layout


def blocks(size):
    return max(1, size // len(BLOCK))


def digest(args):
    """What the text of a whole answer adds up to, as the client sees it."""
    return hashlib.sha256((PLAIN * blocks(args["size"])).encode()).hexdigest()


def message(args, id):
    """The answer as it stands on the wire."""
    layout, text = args["layout"], BLOCK * blocks(args["size"])
    id = json.dumps(id).encode()
    if layout == "pretty":
        item = b'      {\n        "type": "text",\n        "text": "%s"\n      }'
        whole, rest = divmod(blocks(args["size"]), PARTS)
        items = [item % (BLOCK * PARTS)] * whole + ([item % (BLOCK * rest)] if rest else [])
        content = b",\r\n".join(items)
        return b'{\n  "jsonrpc": "2.0",\n  "result": {\n    "content": [\n' + content + b'\n    ]\n  },\n  "id": ' + id + b"\n}"
    if layout == "error":
        return b'{"jsonrpc":"2.0","id":%s,"error":{"code":-32050,"message":"as long as a result","data":"%s"}}' % (id, text)
    result = b'{"content":[{"type":"text","text":"%s"}]}' % text
    if layout == "last":
        return b'{"jsonrpc":"2.0","result":%s,"id":%s}' % (result, id)
    blanks = b" " * 70_000 if layout == "late" else b""
    return b'{"jsonrpc":"2.0",%s"id":%s,"result":%s}' % (blanks, id, result)


def event(data):
    lines = b"".join(b"data: " + line + b"\n" for line in data.replace(b"\r\n", b"\n").split(b"\n"))
    return b"event: message\n" + lines + b"\n"


def event_id(args):
    """Of the first event of a stream, which says nothing; `number` counts the streams of one call."""
    return f"e{args['number']}-{args['key']}"


class Cut:
    """Where a body ends too early. `at` is a byte of it; `None` when that is said by `name` alone."""

    def __init__(self, name, body):
        self.name = name
        middle = len(body) // 2
        places = {
            "first-64k": 30_000,
            "at-64k": 65_536,
            "under-1m": MIB - 1,
            "over-1m": MIB + 1,
            "middle": middle,
            "escape": body.find(ESCAPE, middle) + 3,
            "letter": body.find(LETTER, middle) + 1,
            # Behind the brace stand, in an event, one line break and one blank line.
            "last-byte": len(body.rstrip(b"\n")) - 1,
            "brace": len(body.rstrip(b"\n")),
            "blank-line": len(body) - 1,
            "chunk-head": middle,
            "stall": middle,
        }
        self.at = places.get(name)


def write_ledger(path, entry):
    line = json.dumps({**entry, "pid": os.getpid()}) + "\n"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


class Stop(Exception):
    """This connection is over."""


class Connection(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.coming = self.request.makefile("rb")
        try:
            while self.one():
                pass
        except (Stop, OSError):
            pass

    def one(self):
        first = self.coming.readline().split()
        if len(first) != 3:
            return False
        verb, headers = first[0].decode(), {}
        while (line := self.coming.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.lower()] = value.strip()
        body = self.coming.read(int(headers.get("content-length", 0)))
        getattr(self, f"on_{verb.lower()}", self.on_other)(headers, body)
        return True

    def say(self, status, body=b"", kind="application/json", headers=()):
        head = [f"HTTP/1.1 {status} So", f"content-type: {kind}", f"content-length: {len(body)}", *headers]
        self.request.sendall("\r\n".join([*head, "", ""]).encode() + body)

    def on_other(self, _headers, _body):
        self.say(405)

    def on_delete(self, headers, _body):
        self.server.sessions.discard(headers.get("mcp-session-id"))
        self.say(200)

    def on_get(self, headers, _body):
        last = headers.get("last-event-id")
        if last is None:
            return self.say(405)
        with self.server.lock:
            rest = self.server.rests.pop(last, None)
        if rest is None:
            return self.say(404, b'{"jsonrpc":"2.0","error":{"code":-32000,"message":"No such event"},"id":null}')
        args, id = rest
        write_ledger(self.server.ledger, {"resumed": args["key"], "after": last})
        self.answer(args, id)

    def on_post(self, headers, body):
        asked = json.loads(body)
        method, id = asked.get("method"), asked.get("id")
        if method == "initialize":
            session = os.urandom(12).hex()
            self.server.sessions.add(session)
            hello = {
                # The newest revision that has a handshake, or what the client asks for if that is older.
                "protocolVersion": min(asked["params"]["protocolVersion"], "2025-11-25"),
                "capabilities": {"tools": {}, "logging": {}},
                "serverInfo": {"name": "long", "version": "1.0.0"},
            }
            return self.result(id, hello, [f"mcp-session-id: {session}"])
        if headers.get("mcp-session-id") not in self.server.sessions:
            return self.say(404, b'{"jsonrpc":"2.0","error":{"code":-32001,"message":"Session not found"},"id":null}')
        if id is None or method is None:
            return self.say(202)
        if method == "tools/list":
            schema = {"type": "object"}
            return self.result(id, {"tools": [{"name": name, "inputSchema": schema} for name in ("short", "long")]})
        if method != "tools/call":
            return self.result(id, {})
        args = asked["params"].get("arguments") or {}
        write_ledger(self.server.ledger, {"key": args["key"], "at": int(time.time() * 1000)})
        if asked["params"]["name"] == "short":
            return self.result(id, {"content": [{"type": "text", "text": f"short {args['key']}"}]})
        token = (asked["params"].get("_meta") or {}).get("progressToken")
        self.answer({"number": 0, **args, "token": token}, id)

    def result(self, id, result, headers=()):
        self.say(200, json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode(), headers=headers)

    # --- the long answer --------------------------------------------------------------------------------------------

    def answer(self, args, id):
        cut, framing, sse, polls = args.get("cut"), args.get("framing", "chunked"), args["form"] == "sse", args.get("polls", 0)
        self.remember(args, id)
        if cut == "before-head":
            self.break_off(args)
        text = message(args, id)
        ahead = self.ahead(args) if sse else b""
        body = b"" if polls else event(text) if sse else text
        head = ["HTTP/1.1 200 OK", "content-type: " + ("text/event-stream" if sse else "application/json")]
        match framing:
            case "chunked":
                head.append("transfer-encoding: chunked")
            case "length":
                # One that is short of the body ends it in the middle as far as HTTP knows.
                head.append(f"content-length: {len(ahead) + len(body) - (100 if cut == 'short-length' else 0)}")
            case "close":
                head.append("connection: close")
        self.request.sendall("\r\n".join([*head, "", ""]).encode())
        if cut == "after-head":
            self.break_off(args)
        self.send(ahead, framing)
        while args.get("waits") and not os.path.exists(f"{self.server.ledger}.go-{args['key']}"):
            time.sleep(0.01)
        self.send(body, framing, Cut(cut, body) if cut else None, args)
        if cut in ("no-last-chunk", "short-length"):
            self.break_off(args)
        if framing == "chunked":
            self.request.sendall(b"0\r\n\r\n")
        elif framing == "close":
            raise Stop

    def remember(self, args, id):
        """What a GET that names the first event of this stream will be answered with."""
        polls = args.get("polls", 0)
        if args.get("ids") == "kept" and (polls or args.get("cut")):
            rest = {**args, "number": args["number"] + 1, "polls": max(0, polls - 1)}
            if not polls:
                rest["cut"] = None
            with self.server.lock:
                self.server.rests[event_id(args)] = (rest, id)

    def ahead(self, args):
        """The events before the answer's."""
        events = []
        if args.get("ids", "none") != "none":
            events.append(f"retry: 50\nid: {event_id(args)}\ndata: \n\n".encode())
        if args["number"] == 0 and args["token"] is not None:
            for step in range(args.get("before", 0)):
                told = {"progressToken": args["token"], "progress": step + 1}
                events.append(event(json.dumps({"jsonrpc": "2.0", "method": "notifications/progress", "params": told}).encode()))
        return b"".join(events)

    def send(self, body, framing, at=None, args=None):
        sent, view = 0, memoryview(body)
        while sent < len(body):
            piece = view[sent : sent + PIECE]
            stop = at is not None and at.at is not None and at.at <= sent + len(piece)
            if stop and at.name == "chunk-head" and framing == "chunked":
                self.request.sendall(b"ea")
                self.break_off(args)
            head = b"%x\r\n" % len(piece) if framing == "chunked" else b""
            if stop:
                self.request.sendall(head + piece[: at.at - sent])
                self.break_off(args)
            self.request.sendall(head + bytes(piece) + (b"\r\n" if framing == "chunked" else b""))
            sent += len(piece)

    def break_off(self, args):
        if args["cut"] == "stall":
            write_ledger(self.server.ledger, {"stalled": args["key"]})
            # Silent until somebody ends it.
            self.request.recv(1)
            raise Stop
        if args.get("end") == "rst":
            self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        write_ledger(self.server.ledger, {"cut": args["key"], "at": time.time()})
        self.coming.close()
        self.request.close()
        raise Stop


class Listener(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, at, ledger):
        super().__init__(at, Connection)
        self.ledger = ledger
        self.lock = threading.Lock()
        self.sessions = set()
        # What can be resumed: the last event that went out, and the call.
        self.rests = {}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("--variant", type=int, default=1)
    chosen = parser.parse_args()
    Listener(("127.0.0.1", chosen.port), chosen.ledger).serve_forever()


if __name__ == "__main__":
    main()
