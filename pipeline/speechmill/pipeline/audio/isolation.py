"""What keeps one recording from taking a whole shard down with it.

Decoding is watched in the process where it runs: an alarm ends it when a recording takes too long,
and too little memory, or a crash, ends it too. The shard is then done again with every recording
decoded in a process of its own, so that it is known which one is at fault.
"""

import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.audio.clips import Fault, Piece, Recordings, RecordingSettings
from speechmill.pipeline.audio.segment import Span
from speechmill.pipeline.blob import Blob, spool
from speechmill.pipeline.errors import (
    DecodeCrashed,
    DecodeOutOfMemory,
    DecodeTimeout,
    SampleError,
    SpeechmillError,
    StorageFull,
    StreamBroken,
)

_PART = 2**22  # bytes of a recording that are sent at a time
_STATM = Path("/proc/self/statm")


class WatchedRecordings(Recordings):
    """Decodes in this process, which ends by SIGALRM where a recording takes too long.

    Raises `StreamBroken` where memory runs out, whoever took it.
    """

    def pieces(self, data: Blob, spans: Sequence[Span] = ()) -> Iterator[Piece | Fault]:
        left = self.settings.limits.decode_seconds
        pieces = super().pieces(data, spans)
        while True:
            signal.setitimer(signal.ITIMER_REAL, left)
            try:
                piece = next(pieces, None)
            except MemoryError as error:
                raise StreamBroken("memory ran out while a shard was decoded") from error
            finally:
                left = max(1e-3, signal.setitimer(signal.ITIMER_REAL, 0)[0])
            if piece is None:
                return
            yield piece


@contextmanager
def memory_limit(mb: float) -> Iterator[None]:
    """Let this process take no more than this on top of what it has."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    _limit_memory(mb)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _limit_memory(mb: float) -> None:
    if not _STATM.exists():  # only Linux tells, and only Linux holds to it
        return
    held = int(_STATM.read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held + int(mb * 1e6)
    resource.setrlimit(
        resource.RLIMIT_DATA,
        (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard),
    )


class IsolatedRecordings(Recordings):
    """Decodes in another process, which a recording may take down; it is then a `Fault`."""

    def __init__(self, settings: RecordingSettings, codecs: Sequence[CodecInfo]):
        super().__init__(settings, codecs)
        self._child: _Child | None = None

    def pieces(self, data: Blob, spans: Sequence[Span] = ()) -> Iterator[Piece | Fault]:
        self._child = self._child or _Child(self.settings, self.codecs)
        try:
            self._child.send(data, spans)
            while (piece := self._child.receive()) is not None:
                yield piece
        except (DecodeCrashed, DecodeTimeout, DecodeOutOfMemory) as error:
            self.close()
            yield Fault(type(error).__name__, str(error), "decode")

    def close(self) -> None:
        if self._child:
            self._child.end()
        self._child = None


class _Child:
    """A process that decodes one recording after the other, until one ends it."""

    def __init__(self, settings: RecordingSettings, codecs: Sequence[CodecInfo]):
        self._limits = settings.limits
        self._pipe, theirs = Pipe()
        # -P: a file in the working directory must not replace a module of ours or of Python.
        command = [sys.executable, "-P", "-m", "speechmill.pipeline.audio.isolation"]
        command += [str(theirs.fileno())]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = os.environ | {"PYTHONPATH": path}
        self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        theirs.close()
        try:
            self._pipe.send((settings, list(codecs)))
            self._pipe.recv()
        except (EOFError, OSError) as error:
            raise StreamBroken(f"{' '.join(command)} does not start") from error

    def send(self, data: Blob, spans: Sequence[Span]) -> None:
        try:
            self._pipe.send((len(data), spans))
            for start in range(0, len(data), _PART):
                self._pipe.send_bytes(data[start : start + _PART])
        except OSError as error:
            raise self._death() from error

    def receive(self) -> Piece | Fault | None:
        """Raises what became of the process where it cannot answer any more."""
        try:
            item = self._pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise self._death() from error
        if isinstance(item, SpeechmillError):
            raise item
        assert item is None or isinstance(item, Piece | Fault)
        return item

    def _death(self) -> SampleError:
        code = self._process.wait()
        if code == -signal.SIGALRM:
            return DecodeTimeout(f"over limits.decode_seconds, {self._limits.decode_seconds:g}")
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return DecodeCrashed(f"the process that decoded it ended by {how}")

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._pipe.close()


def _serve(pipe: Connection) -> None:
    """Decode what comes down the pipe until it is closed."""
    settings, codecs = pipe.recv()
    recordings = WatchedRecordings(settings, codecs)
    pipe.send(None)
    _limit_memory(settings.limits.memory_mb)
    while True:
        try:
            size, spans = pipe.recv()
        except EOFError:
            return
        parts = (pipe.recv_bytes() for _ in range(0, size, _PART))
        try:
            for piece in recordings.pieces(spool(parts, size), spans):
                pipe.send(piece)
            pipe.send(None)
        except StorageFull as error:
            pipe.send(error)
        except (StreamBroken, MemoryError):
            limit = f"over limits.memory_mb, {settings.limits.memory_mb:g}"
            pipe.send(DecodeOutOfMemory(limit))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
