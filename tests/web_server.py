"""A web server of one file that fails, or leaves things out, as real ones do."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.http_server import QuietHandler, serving

FILE = "/x.tar"


@dataclass
class Behaviour:
    """What the server does; statuses are answered first, one for each request."""

    data: bytes = b"0123456789"
    statuses: list[int] = field(default_factory=list)
    head: int = 200  # status of HEAD
    tells_length: bool = True
    ranges: bool = True
    page: str | None = None  # of a folder; None: 403
    requests: Counter[str] = field(default_factory=Counter)


@contextmanager
def serve(does: Behaviour) -> Iterator[str]:
    """Serve `does.data` at every URL that ends in `FILE`, below the one that is yielded."""

    class Handler(QuietHandler):
        def do_HEAD(self) -> None:
            self._answer(does.head)

        def do_GET(self) -> None:
            self._answer(200)

        def _answer(self, status: int) -> None:
            does.requests[self.command] += 1
            if does.statuses:
                status = does.statuses.pop(0)
            elif self.path == "/" and does.page is not None:
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write(does.page.encode())
                return
            elif not self.path.endswith(FILE):
                status = 403 if self.path.endswith("/") else 404
            if status != 200:
                self.send_error(status)
                return
            wanted = self.headers.get("Range") if does.ranges else None
            first, _, last = (wanted or "bytes=0-").removeprefix("bytes=").partition("-")
            part = does.data[int(first) : int(last) + 1 if last else None]
            self.send_response(206 if wanted else 200)
            if wanted:
                end = int(first) + len(part) - 1
                self.send_header("Content-Range", f"bytes {first}-{end}/{len(does.data)}")
            if does.tells_length or wanted:
                self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(part)

    with serving(Handler) as url:
        yield url
