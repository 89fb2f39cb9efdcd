"""A slow line to a server: what a test has to do in the middle of a download, it has time for."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

_CHUNK = 32 << 10


class SlowLine:
    """A TCP proxy. `pace` is bytes a second towards the client over all connections together."""

    def __init__(self, target: str, pace: float) -> None:
        host, _, port = target.rpartition(":")  # listens where its target does
        self._target = (host, int(port))
        self.pace = pace
        self.sent = 0  # bytes towards the clients
        self._turn = threading.Lock()
        self._listener = socket.create_server((host, 0))
        self.url = f"http://{host}:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
                for source, sink, paced in [(client, server, False), (server, client, True)]:
                    threading.Thread(
                        target=self._copy, args=(source, sink, paced), daemon=True
                    ).start()

    def _copy(self, source: socket.socket, sink: socket.socket, paced: bool) -> None:
        with contextlib.suppress(OSError):  # either side went away
            while chunk := source.recv(_CHUNK):
                if paced:
                    with self._turn:
                        time.sleep(len(chunk) / self.pace)
                    self.sent += len(chunk)
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextlib.contextmanager
def slow_line(target: str, *, pace: float) -> Iterator[SlowLine]:
    line = SlowLine(target, pace)
    thread = threading.Thread(target=line.serve)
    thread.start()
    try:
        yield line
    finally:
        line.close()
        thread.join()
