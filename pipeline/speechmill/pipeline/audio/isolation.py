"""Keeps one recording from failing its whole shard.

At first, recordings are decoded in the process of the shard. An alarm ends that process if a
recording takes too long; a lack of memory or a crash ends it too. The shard then runs again with
its recordings decoded in a separate process, which shows the recording at fault.
"""

import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.audio.recordings import Fault, Recordings, RecordingSettings, fault_of
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.audio.segment import Clip, Span
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
    """Decodes in this process; SIGALRM ends it if a recording takes too long.

    Raises `StreamBroken` if memory runs out, whatever used it.
    """

    def clips(self, data: Blob, spans: Sequence[Span] = ()) -> Iterator[Clip | Fault]:
        left = self.settings.limits.decode_seconds
        clips = super().clips(data, spans)
        while True:
            signal.setitimer(signal.ITIMER_REAL, left)
            try:
                clip = next(clips, None)
            except MemoryError as error:
                raise StreamBroken("memory ran out while a shard was decoded") from error
            finally:
                left = max(1e-3, signal.setitimer(signal.ITIMER_REAL, 0)[0])
            if clip is None:
                return
            yield clip


@contextmanager
def memory_limit(mb: float) -> Iterator[None]:
    """Let this process allocate at most `mb` on top of its memory now."""
    before = resource.getrlimit(resource.RLIMIT_DATA)
    _limit_memory(mb)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _limit_memory(mb: float) -> None:
    if not _STATM.exists():  # other systems than Linux do not enforce the limit
        return
    held = int(_STATM.read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = held + int(mb * 1e6)
    resource.setrlimit(
        resource.RLIMIT_DATA,
        (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard),
    )


class IsolatedRecordings(Recordings):
    """Decodes in another process; a recording that crashes it or is over a limit is a `Fault`."""

    def __init__(self, settings: RecordingSettings, codecs: Sequence[CodecInfo]):
        super().__init__(settings, codecs)
        self._child: _Child | None = None

    def clips(self, data: Blob, spans: Sequence[Span] = ()) -> Iterator[Clip | Fault]:
        self._child = self._child or _start(self.settings, self.codecs)
        try:
            self._child.send(data, spans)
            while not isinstance(item := self._child.receive(), float):
                yield item
            self.child_cpu_seconds += item
        except (DecodeCrashed, DecodeTimeout, DecodeOutOfMemory) as error:
            self._child.end()
            self._child = None
            yield fault_of(error)

    def close(self) -> None:
        if self._child:
            _release(self._child)
        self._child = None


@contextmanager
def kept_process() -> Iterator[None]:
    """Let isolated recordings in the block share one process, which takes a second to start."""
    global _keep_process
    outer, _keep_process = _keep_process, True
    try:
        yield
    finally:
        _keep_process = outer
        while _idle and not outer:
            _idle.pop().end()


_keep_process = False
_idle: list["_Child"] = []


def _start(settings: RecordingSettings, codecs: Sequence[CodecInfo]) -> "_Child":
    while _idle:
        child = _idle.pop()
        try:
            child.set_up(settings, codecs)
        except StreamBroken:  # it has died
            child.end()
        else:
            return child
    child = _Child()
    child.set_up(settings, codecs)
    return child


def _release(child: "_Child") -> None:
    if _keep_process and not child.busy:
        _idle.append(child)
    else:
        child.end()


class _Child:
    """A process that decodes recordings one after the other, until one ends it."""

    def __init__(self) -> None:
        self._limits = Limits()
        self.busy = False  # with a recording
        self._pipe, theirs = Pipe()
        # -P: a file in the working directory must not replace a module of ours or of Python.
        command = [sys.executable, "-P", "-m", "speechmill.pipeline.audio.isolation"]
        command += [str(theirs.fileno())]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environment = os.environ | {"PYTHONPATH": path}
        self._process = subprocess.Popen(command, env=environment, pass_fds=[theirs.fileno()])
        self._command = " ".join(command)
        theirs.close()

    def set_up(self, settings: RecordingSettings, codecs: Sequence[CodecInfo]) -> None:
        """Set the settings and codecs for the next recordings."""
        self._limits = settings.limits
        try:
            self._pipe.send((settings, list(codecs)))
            self._pipe.recv()
        except (EOFError, OSError) as error:
            raise StreamBroken(f"{self._command} does not start") from error

    def send(self, data: Blob, spans: Sequence[Span]) -> None:
        self.busy = True
        try:
            self._pipe.send((len(data), spans))
            for start in range(0, len(data), _PART):
                self._pipe.send_bytes(data[start : start + _PART])
        except OSError as error:
            raise self._death() from error

    def receive(self) -> Clip | Fault | float:
        """The next clip or fault; at the end of the recording, the CPU seconds that it took.

        Raises a `SampleError` that says how the process died, if it died.
        """
        try:
            item = self._pipe.recv()
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise self._death() from error
        if isinstance(item, SpeechmillError):
            raise item
        assert isinstance(item, Clip | Fault | float)
        self.busy = not isinstance(item, float)
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
    """Decode the recordings that arrive through the pipe until it is closed."""
    # A signal to the process group is for the parent; it must not look like a crash.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    settings, codecs = pipe.recv()
    while True:
        recordings = WatchedRecordings(settings, codecs)
        try:
            pipe.send(None)
            _limit_memory(settings.limits.memory_mb)
            settings, codecs = _decode_until_set_up(pipe, recordings)
        except (EOFError, BrokenPipeError):  # the parent has ended
            return


def _decode_until_set_up(
    pipe: Connection, recordings: Recordings
) -> tuple[RecordingSettings, list[CodecInfo]]:
    """Decode recordings until new settings and codecs arrive, then return them."""
    while True:
        size, spans = pipe.recv()
        if isinstance(size, RecordingSettings):
            return size, spans
        parts = (pipe.recv_bytes() for _ in range(0, size, _PART))
        started = time.process_time()
        try:
            for clip in recordings.clips(spool(parts, size), spans):
                pipe.send(clip)
            pipe.send(time.process_time() - started)
        except StorageFull as error:
            pipe.send(error)
        except (StreamBroken, MemoryError):
            limit = f"over limits.memory_mb, {recordings.settings.limits.memory_mb:g}"
            pipe.send(DecodeOutOfMemory(limit))


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
