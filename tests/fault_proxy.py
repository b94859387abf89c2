"""A proxy on 127.0.0.1 that does to S3 requests what bad days do to them."""

import random
import socket
import struct
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
FAULTS = ("slow down", "reset", "lost answer", "cut body", "short body", "delay")
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "expect"}


class FaultProxy:
    """Forwards to an S3 endpoint; of all requests, a share `rate` meets a fault."""

    def __init__(self, endpoint_url: str, rate: float, seed: int = 0, faults=FAULTS):
        self.upstream = urlsplit(endpoint_url)
        self.rate = rate
        self.faults = faults
        self.met: Counter[str] = Counter()
        self.requests = 0
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self._server.proxy = self  # type: ignore[attr-defined]

    @property
    def endpoint_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def draw(self) -> str | None:
        """The fault of the next request."""
        with self._lock:
            self.requests += 1
            if self._chance.random() >= self.rate:
                return None
            fault = self._chance.choice(self.faults)
            self.met[fault] += 1
            return fault

    def __enter__(self) -> "FaultProxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.proxy.draw()  # type: ignore[attr-defined]
        if fault == "slow down":
            return self._answer(503, {"Content-Type": "application/xml"}, SLOW_DOWN)
        if fault == "reset":
            return self._reset()
        if fault == "delay":
            time.sleep(0.5)
        try:
            response, data = self._forward(body)
        except OSError:  # the server is down
            return self._reset()
        if fault == "lost answer":
            return self._reset()
        headers = {k: v for k, v in response.getheaders() if k.lower() not in _HOP_BY_HOP}
        return self._answer(response.status, headers, data, fault)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def _forward(self, body: bytes) -> tuple[HTTPResponse, bytes]:
        upstream = self.server.proxy.upstream  # type: ignore[attr-defined]
        connection = HTTPConnection(upstream.hostname, upstream.port, timeout=30)
        headers = {k: v for k, v in self.headers.items() if k.lower() not in _HOP_BY_HOP}
        try:
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: dict[str, str], data: bytes, fault: str | None = None
    ) -> None:
        has_body = self.command == "GET" and status in (200, 206) and len(data) > 1
        sent = data[: len(data) // 2] if has_body and fault in ("cut body", "short body") else data
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        length = len(sent) if fault == "short body" else len(data)
        if self.command == "HEAD":
            length = int(headers.get("Content-Length", 0))
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(sent)
        if len(sent) < length and self.command != "HEAD":
            self._reset()

    def _reset(self) -> None:
        """Close with RST, as a load balancer that lost its server does."""
        self.wfile.flush()
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.close_connection = True
        self.connection.close()

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):  # closed by us
            self.close_connection = True

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass
