"""The display of a command: a live bar on a terminal, plain lines in a pipe.

Names, texts and errors come from strangers. The functions here print all of them, without markup
and emoji codes, and with control characters escaped.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from speechmill.jobs.passed_over import passed_over_summary
from speechmill.pipeline.errors import StorageError
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.redaction import public_text
from speechmill.pipeline.run.run_log import bottleneck_sentence
from speechmill.pipeline.run.runner import Event, EventKind, Totals
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.text import message_of, shown

LINE_SECONDS = 10.0  # between two plain lines of progress
_WIDEST = 1000  # columns of a table
UNREACHABLE = (
    "workers on other nodes wrote it to their own disks; give an output that every node reaches"
)


class Display:
    """Prints to a console; a quiet console prints nothing."""

    def __init__(self, console: Console):
        self.console = console
        self._bar: Progress | None = None
        self._last_line = 0.0

    def line(self, text: str) -> None:
        print_line(self.console, text)

    def table(self, table: Table) -> None:
        """Print a whole table, also on a narrow console."""
        quiet, file = self.console.quiet, self.console.file
        unbound = Console(file=file, width=_WIDEST, quiet=quiet, markup=False)
        unbound.width = Measurement.get(unbound, unbound.options, table).maximum
        unbound.print(table)

    def done(self, text: str, urls: Iterable[str], storage: Storage) -> None:
        """Print a line that names files of a finished run, if all of them exist.

        Raises `StorageError` for the first that does not.
        """
        require_files(urls, storage)
        self.line(f"done     {text}")

    @contextmanager
    def bar(self, label: str, total: int | None = None) -> Iterator[None]:
        """Show progress while the block runs: a bar on a terminal, lines elsewhere."""
        if not self.console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}", markup=False),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as self._bar:
            self._bar.add_task(shown(label), total=total, facts="starting")
            yield
        self._bar = None

    def advance(self, label: str, completed: int, total: int, facts: str, line: str) -> None:
        """Move the bar, or print the line if the last one is some seconds old."""
        if self._bar:
            task = self._bar.task_ids[0]
            self._bar.update(
                task,
                description=shown(label),
                completed=completed,
                total=total,
                facts=shown(facts),
            )
        elif time.monotonic() - self._last_line > LINE_SECONDS or completed >= total:
            self._last_line = time.monotonic()
            self.line(line)


def print_line(console: Console, text: str) -> None:
    """Print a line as it stands, whatever it holds."""
    console.print(Text(shown(text)), soft_wrap=True)


def add_plain_row(table: Table, *cells: str) -> None:
    """Add a row whose cells are shown as they stand."""
    table.add_row(*(Text(shown(cell)) for cell in cells))


def facts_table(facts: Mapping[str, str]) -> Table:
    """Return a table with a row for each name and its value."""
    table = Table(box=None, show_header=False)
    for name, value in facts.items():
        add_plain_row(table, name, public_text(value))
    return table


def require_files(urls: Iterable[str], storage: Storage) -> None:
    """Raise `StorageError` for the first file of a finished run that does not exist."""
    for url in urls:
        if not storage.exists(url):
            raise StorageError(f"the run ended, but {url} does not exist; {UNREACHABLE}")


class ShardDisplay(Display):
    """Shows a run over shards."""

    def __init__(self, console: Console, verb: str = "tokenizing"):
        super().__init__(console)
        self._verb = verb
        self._bytes_left = 0
        self._bytes_done = 0
        self._num_shards = 0

    @contextmanager
    def running(self, todo: list[Shard]) -> Iterator[None]:
        """Show progress over these shards while the block runs."""
        self._num_shards = len(todo)
        self._bytes_left = sum(shard.size for shard in todo)
        with self.bar(self._verb, len(todo)):
            yield

    def event(self, event: Event, totals: Totals, elapsed: float) -> None:
        if event.error:
            kind = "failed " if event.kind is EventKind.GIVE_UP else event.kind
            message = f"{type(event.error).__name__}: {message_of(event.error)}"
            self.line(f"{kind}  {event.shard.url} (attempt {event.attempts}): {message}")
        if event.kind in (EventKind.COMMITTED, EventKind.GIVE_UP):
            self._bytes_left -= event.shard.size
            self._bytes_done += event.shard.size
            finished = totals.shards + totals.failed
            facts = _facts(totals, elapsed, self._eta(elapsed))
            line = f"{finished}/{self._num_shards} shards  {facts}"
            self.advance(self._verb, finished, self._num_shards, facts, line)

    def _eta(self, elapsed: float) -> float:
        """Return the seconds left, if the remaining bytes take as long as those before."""
        return elapsed * self._bytes_left / max(self._bytes_done, 1)

    def summary(self, totals: Totals, elapsed: float, passed_over: Sequence[PassedOver]) -> None:
        """Print the totals of the run as a table, and what the listing passed over."""
        rejects = ", ".join(f"{count} {error}" for error, count in sorted(totals.rejects.items()))
        optional = {
            "frames": totals.frames,
            "not UTF-8": totals.cleaned,
            "passed over": totals.passed_over,
        }
        rows = {
            "shards": f"{totals.shards} done, {totals.failed} failed, {totals.retries} retries",
            "utterances": f"{totals.rows:,}",
            "audio": _hours(totals.audio_seconds),
            "frames": f"{totals.frames:,}",
            "rejects": f"{sum(totals.rejects.values())}" + (f" ({rejects})" if rejects else ""),
            "bad metadata": f"{totals.bad_json}",
            "not UTF-8": f"{totals.cleaned} names and texts, stored with U+FFFD",
            "passed over": f"{totals.passed_over} members that macOS added",
            "time": f"{elapsed:.1f} s, {totals.audio_seconds / elapsed:,.0f} x real time",
        }
        for name, count in optional.items():
            if not count:
                del rows[name]
        self.console.print(facts_table(rows))
        if passed_over:
            self.line(f"passed over {len(passed_over)}: {passed_over_summary(passed_over)}")
        if sentence := bottleneck_sentence(totals, elapsed):
            self.line(sentence)


def _facts(totals: Totals, elapsed: float, eta: float) -> str:
    return (
        f"{_hours(totals.audio_seconds)}, {totals.audio_seconds / elapsed:,.0f} x real time, "
        f"{sum(totals.rejects.values())} rejects, {eta:,.0f} s left"
    )


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:,.2f} h" if seconds >= 360 else f"{seconds:,.1f} s"
