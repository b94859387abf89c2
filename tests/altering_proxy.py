"""A proxy on 127.0.0.1 before an S3 server, which makes of it a store with another habit."""

import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.client import HTTPConnection
from urllib.parse import urlsplit

from tests.http_server import QuietHandler, serving

_OWN = {"connection", "keep-alive", "transfer-encoding", "expect", "content-length", "date"}


@dataclass
class Habit:
    """What differs from the server."""

    conditional_writes: bool = True
    ahead: float = 0.0  # s by which its clock is ahead
    get_seconds: float = 0.0  # by which it delays each GET of an object
    weak_etags: bool = False
    whole: bool = False  # that it does not know ranges
    tls: ssl.SSLContext | None = None


@contextmanager
def alter(endpoint_url: str, habit: Habit) -> Iterator[str]:
    """Yield the URL of the proxy."""
    upstream = urlsplit(endpoint_url)

    class Handler(QuietHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name: value for name, value in self.headers.items() if name not in _OWN}
            if not habit.conditional_writes:
                headers = {n: v for n, v in headers.items() if n.lower() != "if-none-match"}
            if self.command == "GET" and "list-type" not in self.path:
                time.sleep(habit.get_seconds)
            if habit.weak_etags and "If-Match" in headers:
                weak, mark, strong = headers["If-Match"].partition("W/")
                if weak or not mark:
                    self.send_error(412)
                    return
                headers["If-Match"] = strong
            if habit.whole:
                headers.pop("Range", None)
            connection = HTTPConnection(upstream.hostname or "", upstream.port, timeout=30)
            connection.request(self.command, self.path, body or None, headers)
            response = connection.getresponse()
            data = response.read()
            if habit.weak_etags:
                data = data.replace(b"<ETag>", b"<ETag>W/")
            self.send_response_only(response.status)
            for name, value in response.getheaders():
                if name.lower() not in _OWN:
                    weak = habit.weak_etags and name.lower() == "etag"
                    self.send_header(name, f"W/{value}" if weak else value)
            length = response.getheader("Content-Length") if self.command == "HEAD" else len(data)
            self.send_header("Content-Length", str(length or 0))
            now = datetime.now(UTC) + timedelta(seconds=habit.ahead)
            self.send_header("Date", format_datetime(now, usegmt=True))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

    with serving(Handler, habit.tls) as url:
        yield url
