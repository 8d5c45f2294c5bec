"""A way between a client and relatch that can be cut: what a network does to a client in the middle of a call.

Copies bytes in both directions. Says which streams a client came back to and was let in; decides nothing.
"""

import contextlib
import re
import socket
import struct
import threading

PIECE = 64 * 1024
# To the stream of a call; the standing stream is number 0.
COMES_BACK = re.compile(rb"last-event-id: *[^\r\n]*?([1-9]\d*)-\d+\r\n")
HEAD = 4096


class Front:
    def __init__(self, port):
        self.behind = ("127.0.0.1", port)
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        self.lock = threading.Lock()
        self.open, self.returned = set(), set()
        # Bytes that still go to clients before every connection is cut; none: no limit.
        self.room = None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, after=None):
        """Cuts every connection now, or when so many more bytes have gone to clients."""
        with self.lock:
            self.room = after
            sockets = list(self.open) if after is None else []
            self.open.difference_update(sockets)
        for one in sockets:
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                # Wakes the thread that reads it, which a mere close does not.
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def close(self):
        self.listener.close()
        self.cut()

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
                behind = socket.create_connection(self.behind)
            except OSError:
                return
            with self.lock:
                self.open.update((client, behind))
            for one in (client, behind):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asked = []
            threading.Thread(target=self._copy, args=(client, behind, asked, False), daemon=True).start()
            threading.Thread(target=self._copy, args=(behind, client, asked, True), daemon=True).start()

    def _copy(self, of, to, asked, to_client):
        """`asked`: the stream that the client has come back to on this connection, while nothing has been said to that."""
        tail = b""
        try:
            while piece := of.recv(PIECE):
                if not to_client:
                    seen = (tail + piece).lower()
                    found = list(COMES_BACK.finditer(seen))
                    if found:
                        asked[:] = [found[-1][1]]
                    # A header may come in two pieces; what is counted is not counted again.
                    tail = seen[found[-1].end() if found else 0 :][-HEAD:]
                elif self._used_up(len(piece)):
                    return self.cut()
                elif asked:
                    with self.lock:
                        self.returned.add(asked.pop())
                to.sendall(piece)
        except OSError:
            pass
        for one in (of, to):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            with self.lock:
                self.open.discard(one)
            one.close()

    def _used_up(self, size):
        with self.lock:
            if self.room is None:
                return False
            self.room -= size
            return self.room < 0
