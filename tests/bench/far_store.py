"""A proxy on 127.0.0.1 that puts a distance between a client and its store.

    python -m tests.bench.far_store HOST PORT DELAY RATE      prints the port that it listens on

Each request reaches the store `DELAY` s later, and each connection carries at most `RATE` bytes
per s of its answers. Bytes pass through pipes of the kernel, so that the proxy takes little time
from what is measured beside it. It ends when its standard input does.
"""

import os
import socket
import sys
import threading
import time
from contextlib import suppress

_CHUNK = 2**18  # bytes
_SHORTEST_SLEEP = 1e-3  # s


def main(host: str, port: str, delay: str, rate: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)
    store = (host, int(port))
    arguments = (listener, store, float(delay), float(rate))
    threading.Thread(target=_accept, args=arguments, daemon=True).start()
    sys.stdin.read()


def _accept(listener: socket.socket, address: tuple[str, int], delay: float, rate: float) -> None:
    while True:
        client, _ = listener.accept()
        store = socket.create_connection(address)
        for each in (client, store):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for arguments in ((client, store, delay, 0.0), (store, client, 0.0, rate)):
            threading.Thread(target=_forward, args=arguments, daemon=True).start()


def _forward(source: socket.socket, sink: socket.socket, delay: float, rate: float) -> None:
    outlet, inlet = os.pipe()
    free_at = 0.0  # when the connection has carried what it was given
    try:
        while count := os.splice(source.fileno(), inlet, _CHUNK):
            time.sleep(delay)
            if rate:
                free_at = max(free_at, time.monotonic()) + count / rate
            while count:
                count -= os.splice(outlet, sink.fileno(), count)
            ahead = free_at - time.monotonic()
            if ahead > _SHORTEST_SLEEP:
                time.sleep(ahead)
    except OSError:  # one side is gone
        pass
    finally:
        for end in (outlet, inlet):
            os.close(end)
        for each in (source, sink):
            with suppress(OSError):  # the other side was first
                each.shutdown(socket.SHUT_RDWR)
            each.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
