"""A check of the doctor: what it says, what it needs, and how long it may take."""

import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from math import inf

from speechmill.codecs.errors import CodecError
from speechmill.pipeline.errors import SpeechmillError
from speechmill.pipeline.redaction import public_text
from speechmill.pipeline.text import message_of

ALL_THE_TIME = 86_400.0  # s, for a check that only the time of the doctor limits
_LONGEST = 600  # characters of a message
_CLEAN_UP_SECONDS = 10.0  # after Ctrl-C


class Result(StrEnum):
    """What a line of the doctor means for the run."""

    OK = "ok"
    WARNING = "warning"  # the run works, but worse than it could
    FAULT = "fault"  # the run would fail
    SKIPPED = "skipped"  # it depends on a check that found a fault


@dataclass(frozen=True, slots=True)
class Said:
    """One line of a check; that of a warning or a fault ends with the cure."""

    result: Result
    text: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A line with the name of its check."""

    check: str
    result: Result
    message: str


@dataclass(frozen=True, slots=True)
class Check:
    """A function that yields lines, and raises where the run would.

    It is skipped if one of the checks that it `needs` found a fault. After `seconds` the line is
    `late`, and the check goes on without anybody listening; one that imports has no limit, since an
    import that was broken off cannot be repeated.
    """

    name: str
    run: Callable[[], Iterable[Said]]
    needs: tuple[str, ...] = ()
    seconds: float = inf
    late: Said = Said(Result.FAULT, "no answer")
    cures: Callable[[Exception], str] = lambda error: ""  # of errors that name none
    cleans_up: bool = False  # it writes, and removes that at its end; Ctrl-C waits for it


def ok(text: str) -> Said:
    """All is well."""
    return Said(Result.OK, text)


def warning(text: str) -> Said:
    """The run works, but worse than it could."""
    return Said(Result.WARNING, text)


def fault(text: str) -> Said:
    """The run would fail."""
    return Said(Result.FAULT, text)


class Examination:
    """Runs checks and remembers which of them found a fault."""

    def __init__(self, seconds: float):
        """No check takes longer than `seconds` from now on."""
        self._ends = time.monotonic() + seconds
        self._broken: set[str] = set()

    def one_by_one(self, checks: Iterable[Check]) -> Iterator[Finding]:
        """Run checks in this thread, where a time limit also ends what Ray started."""
        for check in checks:
            found: list[Finding] = []
            try:
                with _limited(self._seconds(check)) if check.seconds < inf else nullcontext():
                    self._run(check, found)
            except _TimeIsUp:
                found = [_late(check)]
            yield from self._noted(found)

    def at_once(self, checks: Sequence[Check]) -> Iterator[Finding]:
        """Run checks in threads of their own, so that those of a store that hangs may be left."""
        running: dict[str, _Running] = {}
        for check in checks:
            before = [running[name] for name in check.needs if name in running]
            running[check.name] = _Running(self, check, before)
        try:
            for each in running.values():
                yield from self._noted(each.findings())
        except KeyboardInterrupt:
            for each in running.values():
                each.interrupted()
            raise

    def _seconds(self, check: Check) -> float:
        return max(1.0, min(check.seconds, self._ends - time.monotonic()))

    def _run(self, check: Check, found: list[Finding]) -> None:
        """Add the lines of a check to those found, with the error that ended it."""
        missing = next((name for name in check.needs if name in self._broken), None)
        if missing:
            found.append(Finding(check.name, Result.SKIPPED, f"needs {missing}"))
            return
        try:
            found += (_finding(check, said) for said in check.run())
        except Exception as error:  # whatever a library raises, the other checks go on
            found.append(_finding(check, fault(_error_line(error, check.cures(error)))))

    def _noted(self, found: list[Finding]) -> list[Finding]:
        bad = (Result.FAULT, Result.SKIPPED)
        self._broken |= {finding.check for finding in found if finding.result in bad}
        return found


class _Running:
    """A check in a thread, which waits for those that it needs."""

    def __init__(self, owner: Examination, check: Check, before: Sequence["_Running"]):
        self._owner, self._check, self._before = owner, check, before
        self._found: list[Finding] = []
        self._final: list[Finding] | None = None
        self._started = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def findings(self) -> list[Finding]:
        """The lines of the check, when it has ended or its time is up."""
        with self._lock:
            if self._final is None:
                self._started.wait()
                self._thread.join(self._owner._seconds(self._check))
                is_late = self._thread.is_alive()
                self._final = [_late(self._check)] if is_late else self._found
            return self._final

    def interrupted(self) -> None:
        """Wait for what the check removes at its end."""
        if self._check.cleans_up:
            self._thread.join(_CLEAN_UP_SECONDS)

    def _work(self) -> None:
        for each in self._before:
            self._owner._noted(each.findings())
        self._started.set()
        self._owner._run(self._check, self._found)


class _TimeIsUp(BaseException):
    """The time of a check is over; nothing between the alarm and the check may catch it."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise `_TimeIsUp` in the main thread if the block takes longer."""

    def end(*_: object) -> None:
        raise _TimeIsUp

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _late(check: Check) -> Finding:
    return _finding(check, check.late)


def _finding(check: Check, said: Said) -> Finding:
    line = " ".join(public_text(said.text).split())
    return Finding(check.name, said.result, line[:_LONGEST])


def _error_line(error: Exception, cure: str) -> str:
    """What an error says, with its class if it is not one of ours, and the cure."""
    said = message_of(error)
    if not isinstance(error, SpeechmillError | CodecError):
        said = f"{type(error).__name__}: {said}"
    return f"{said}; {cure}" if cure else said
