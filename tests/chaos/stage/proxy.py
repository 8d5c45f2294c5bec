"""A TCP proxy that can be told to misbehave: silent, refusing, resetting, cutting requests and answers.

Does what it is told and says what it did; when and why is decided in plan.py. It knows no HTTP but for two things: what a
chunk of bytes from the client begins (a request) and, for the count of sessions, the session header.
"""

import asyncio
import re
import socket
import struct
import threading

ISSUED = re.compile(rb"^HTTP/1\.1 200 .*?\r\nmcp-session-id: *([!-~]+)\r\n", re.IGNORECASE | re.DOTALL)
ENDED = re.compile(rb"^DELETE .*?\r\nmcp-session-id: *([!-~]+)\r\n", re.IGNORECASE | re.DOTALL)
# Behaviours that hold for a while; None is to pass everything on.
SILENT, CUT_BEFORE, CUT_HALF, CUT_AFTER, CUT_ANSWER = "silent", "cut-before", "cut-half", "cut-after", "cut-answer"


class Loop:
    """One event loop in a thread of its own, for every proxy of the run."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def do(self, coroutine, seconds=10):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(seconds)


class Proxy:
    """Listens on `port` and carries to whatever port `target()` says, as long as it is not told otherwise."""

    def __init__(self, loop, port, target, note):
        self.loop, self.port, self.target, self.note = loop, port, target, note
        self.behaviour, self.detail = None, {}
        self.pipes = set()
        self.listener = None
        self.counted = 0
        # Sessions that the server issued and that were ended by a DELETE, since `forget_sessions`.
        self.issued, self.ended = set(), set()
        # Set by a planted fault: what is done to bytes on their way to the client, and whether a request is sent twice.
        self.forge, self.twice = None, None
        loop.do(self._open())

    # --- from other threads -----------------------------------------------------------------------------------------

    def open(self):
        self.loop.do(self._open())

    def refuse(self):
        """No listener: a connection is refused. What is open stays open."""
        self.loop.do(self._shut())

    def behave(self, behaviour, **detail):
        self.loop.do(self._behave(behaviour, detail))

    def calm(self, end="resume"):
        """Passes everything on again; what was silent is delivered late (`resume`), or lost with a reset (`reset`)."""
        self.loop.do(self._calm(end))

    def cut(self, how):
        """Ends every open connection, by a reset or properly."""
        return self.loop.do(self._cut(how))

    def forget_sessions(self):
        self.issued, self.ended = set(), set()

    # --- in the loop ------------------------------------------------------------------------------------------------

    async def _open(self):
        if self.listener is None:
            self.listener = await self.loop.loop.create_server(lambda: Near(self), "127.0.0.1", self.port, backlog=256)

    async def _shut(self):
        if self.listener is not None:
            listener, self.listener = self.listener, None
            listener.close()

    async def _behave(self, behaviour, detail):
        self.behaviour, self.detail, self.counted = behaviour, detail, 0

    async def _calm(self, end):
        was, self.behaviour, self.detail = self.behaviour, None, {}
        if was == SILENT:
            for pipe in list(self.pipes):
                pipe.wake() if end == "resume" else pipe.reset()

    async def _cut(self, how):
        pipes = list(self.pipes)
        for pipe in pipes:
            pipe.reset() if how == "reset" else pipe.finish()
        return len(pipes)

    def silent(self, direction):
        """Whether this direction (`request` or `answer`) is to be kept back."""
        return self.behaviour == SILENT and self.detail.get("only", direction) == direction

    def count(self, words):
        self.counted += 1
        if self.counted <= 5:
            self.note(f"proxy {self.port}: {words}")


def abort(transport):
    """A reset, not a proper end."""
    if transport is None or transport.is_closing():
        return
    sock = transport.get_extra_info("socket")
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    transport.abort()


class Near(asyncio.Protocol):
    """The side of the client; it owns the pair."""

    def __init__(self, proxy):
        self.proxy, self.transport, self.far, self.dialling = proxy, None, None, None
        self.to_far, self.to_near = [], []
        self.far_ended = self.near_ended = False
        # Set when a request of this pipe is to be cut at its answer.
        self.armed = None

    def connection_made(self, transport):
        self.transport = transport
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.proxy.pipes.add(self)

    def connection_lost(self, _cause):
        self.proxy.pipes.discard(self)
        if self.dialling:
            self.dialling.cancel()
        if self.far:
            self.far.transport.close()

    def eof_received(self):
        self.near_ended = True
        if not self.proxy.silent("request"):
            self._flush_far()
        return True

    def data_received(self, data):
        proxy = self.proxy
        if ended := ENDED.match(data):
            proxy.ended.add(ended[1])
        match proxy.behaviour:
            case "cut-before":
                proxy.count("a request cut before it was passed on")
                return self.reset()
            case "cut-half":
                proxy.count("a request cut in its middle")
                self.to_far.append(data[: len(data) // 2])
                self._flush_far()
                # The half goes out first; a reset behind it tells the server.
                return self.proxy.loop.loop.call_later(0.02, self.reset)
            case "cut-after":
                self.armed = 0
            case "cut-answer":
                self.armed = proxy.detail.get("bytes", 20)
        self.to_far.append(data)
        if not proxy.silent("request"):
            self._flush_far()
        if proxy.twice and proxy.twice(data):
            proxy.twice = None
            proxy.loop.loop.create_task(self._again(data))

    async def _again(self, data):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.target())
        writer.write(data)
        await reader.read(1)
        writer.close()

    def _flush_far(self):
        if self.far is None:
            if self.dialling is None and (self.to_far or self.near_ended):
                self.dialling = self.proxy.loop.loop.create_task(self._dial())
            return
        for data in self.to_far:
            if not self.far.transport.is_closing():
                self.far.transport.write(data)
        self.to_far.clear()
        if self.near_ended and self.far.transport.can_write_eof() and not self.far.transport.is_closing():
            self.far.transport.write_eof()

    async def _dial(self):
        try:
            _, self.far = await self.proxy.loop.loop.create_connection(lambda: Far(self), "127.0.0.1", self.proxy.target())
        except OSError:
            # The target is away. A real refusal never has a proxy in between, so this is a reset without an answer.
            return self.reset()
        self._flush_far()

    def from_far(self, data):
        proxy = self.proxy
        if issued := ISSUED.match(data):
            proxy.issued.add(issued[1])
        if self.armed is not None:
            if self.armed == 0:
                proxy.count("an answer kept back and the connection reset")
                return self.reset()
            part, self.armed = data[: self.armed], None
            proxy.count(f"an answer cut after {len(part)} bytes")
            self.transport.write(part)
            return self.proxy.loop.loop.call_later(0.02, self.finish if proxy.detail.get("how") == "end" else self.reset)
        self.to_near.append(proxy.forge(data, self) if proxy.forge else data)
        if not proxy.silent("answer"):
            self.flush_near()

    def flush_near(self):
        for data in self.to_near:
            if not self.transport.is_closing():
                self.transport.write(data)
        self.to_near.clear()
        if self.far_ended:
            self.transport.close()

    def end_of_far(self):
        self.far_ended = True
        if not self.proxy.silent("answer"):
            self.flush_near()

    def wake(self):
        self._flush_far()
        self.flush_near()

    def reset(self):
        abort(self.far.transport if self.far else None)
        abort(self.transport)

    def finish(self):
        for side in (self.far.transport if self.far else None, self.transport):
            if side and not side.is_closing():
                side.close()


class Far(asyncio.Protocol):
    """The side of the server."""

    def __init__(self, near):
        self.near, self.transport, self.reset_by_peer = near, None, False

    def connection_made(self, transport):
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.near.transport.is_closing():
            transport.close()

    def data_received(self, data):
        self.near.from_far(data)

    def connection_lost(self, cause):
        # As the server ended it: killed with unread bytes is a reset, otherwise a proper end.
        if cause is None:
            self.near.end_of_far()
        elif not self.near.proxy.silent("answer"):
            abort(self.near.transport)
        else:
            self.near.far_ended = True
