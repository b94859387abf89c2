"""What a training run shows: a live bar on a terminal, plain lines in a pipe."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from speechmill.jobs.display import LINE_SECONDS, Display
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.trainer import Progress as TrainProgress
from speechmill.pipeline.storage import Storage, join

_SHOWN = ("loss", "mel", "si_sdr", "adversarial", "judges", "grad_norm")


class TrainDisplay(Display):
    """Shows a training run."""

    def __init__(self, console: Console):
        super().__init__(console)
        self._first: TrainProgress | None = None
        self._began = 0.0

    def begin(self, config: TrainConfig, root: str, num_shards: int) -> None:
        """Say what is about to run."""
        phases = ", ".join(f"{name} {p.steps:,} steps" for name, p in config.phases.items())
        weights = config.codec.checkpoint or "its own weights, if it has any"
        self.line(f"codec    {config.codec.name}, {weights}")
        self.line(f"shards   {num_shards}")
        self.line(f"phases   {phases}")
        self.line(f"output   {root}")

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show progress while the block runs."""
        if not self.console.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.fields[phase]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self.console) as self._bar:
            self._bar.add_task("", total=None, facts="starting", phase="training")
            yield
        self._bar = None

    def progress(self, progress: TrainProgress) -> None:
        """Take in what a worker reports."""
        if self._first is None:
            self._first, self._began = progress, time.monotonic()
        if progress.kind == "validation":
            self.line(f"step {progress.step}  validation  {_facts(progress)}")
        elif self._bar:
            facts = f"{_facts(progress)}  {self._eta(progress)}"
            self._bar.update(
                self._bar.task_ids[0],
                completed=progress.step,
                total=progress.total,
                phase=progress.phase,
                facts=facts,
            )
        elif time.monotonic() - self._last_line > LINE_SECONDS or progress.step == progress.total:
            self._last_line = time.monotonic()
            self.line(
                f"{progress.phase}  step {progress.step}/{progress.total}  {_facts(progress)}  "
                f"{self._eta(progress)}"
            )

    def end(self, root: str, validated: bool, storage: Storage) -> None:
        """Say where the weights are."""
        last, best = join(root, "last.safetensors"), join(root, "best.safetensors")
        if validated:
            self.done(f"weights are {best} (by validation), {last}", [best, last], storage)
        else:
            self.done(f"weights are {last}", [last], storage)

    def _eta(self, progress: TrainProgress) -> str:
        assert self._first is not None
        steps = progress.step - self._first.step
        if not steps:
            return ""
        pace = (time.monotonic() - self._began) / steps
        return f"{pace:.2f} s/step, {pace * (progress.total - progress.step):,.0f} s left"


def _facts(progress: TrainProgress) -> str:
    shown = [name for name in _SHOWN if name in progress.values]
    return "  ".join(f"{name} {progress.values[name]:.4g}" for name in shown)
