"""A web server of files, each of which wants a signature and the headers of a login."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.http_server import QuietHandler, serving


@contextmanager
def serve(folder: Path, query: str, headers: dict[str, str]) -> Iterator[str]:
    """Serve the files of a folder at the URL that is yielded; `broken.tar` can only be listed."""

    class Handler(QuietHandler):
        def do_HEAD(self) -> None:
            self._answer(has_body=False)

        def do_GET(self) -> None:
            self._answer(has_body=True)

        def _answer(self, has_body: bool) -> None:
            path, _, given = self.path.partition("?")
            if given != query or any(self.headers.get(name) != headers[name] for name in headers):
                self.send_error(403)
                return
            if has_body and path == "/broken.tar":
                self.send_error(400)
                return
            data = (folder / path[1:]).read_bytes()
            found = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first = int(found[1]) if found else 0
            part = data[first : int(found[2]) + 1 if found and found[2] else None]
            self.send_response(206 if found else 200)
            self.send_header("ETag", hashlib.sha256(data).hexdigest())
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(len(part)))
            if found:
                last = first + len(part) - 1
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
            self.end_headers()
            if has_body:
                self.wfile.write(part)

    with serving(Handler) as url:
        yield url
