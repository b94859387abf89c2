"""The `speechmill` command."""

import io
import logging
import os
import sys
import time
from typing import Any, TextIO, cast

from speechmill.jobs.cli import datasets, runs  # noqa: F401  they add their commands to the app
from speechmill.jobs.cli.app import app
from speechmill.pipeline.garbage import search_less
from speechmill.pipeline.redaction import public_text
from speechmill.pipeline.text import shown

__all__ = ["app", "main"]

_ARROW_SECONDS = 0.05  # in which threads of Arrow let go of the files that they have read


class _PlainFormatter(logging.Formatter):
    """Escapes control characters in messages, not in tracebacks."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return shown(super().formatMessage(record))


class _PublicStream:
    """A stream of text to which no secret is written, also not by a traceback or a library."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(public_text(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main() -> None:
    """Entry point of the `speechmill` command."""
    search_less()
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 must not end the run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = cast(TextIO, _PublicStream(sys.stdout))
    sys.stderr = cast(TextIO, _PublicStream(sys.stderr))
    # Child processes must not import a user's json.py from the working directory.
    os.environ.setdefault("PYTHONSAFEPATH", "1")
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    try:
        app(prog_name="speechmill")
    finally:
        if "pyarrow" in sys.modules:  # Python before 3.14 aborts if a thread still holds one
            time.sleep(_ARROW_SECONDS)
