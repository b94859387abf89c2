"""The display of a training run."""

import time

from rich.console import Console

from speechmill.jobs.display import Display
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.progress import ProgressKind, TrainProgress
from speechmill.pipeline.storage import Storage, join

_SHOWN = (
    "loss",
    "mel",
    "si_sdr",
    "adversarial",
    "discriminators",
    "grad_norm",
    "perplexity",
    "lowest_perplexity",
    "latent_dims_used",
)


class TrainDisplay(Display):
    """Shows a training run."""

    def __init__(self, console: Console):
        super().__init__(console)
        self._first: TrainProgress | None = None
        self._began = 0.0

    def begin(self, config: TrainConfig, root: str, num_shards: int) -> None:
        """Print the codec, the shards, the phases and the output."""
        phases = ", ".join(f"{name} {p.steps:,} steps" for name, p in config.phases.items())
        weights = config.codec.checkpoint or "the weights that come with it, if any"
        self.line(f"codec    {config.codec.name}, {weights}")
        self.line(f"shards   {num_shards}")
        self.line(f"phases   {phases}")
        self.line(f"output   {root}")

    def show(self, progress: TrainProgress) -> None:
        """Show a report of a worker."""
        if self._first is None:
            self._first, self._began = progress, time.monotonic()
        step, facts = progress.step, _facts(progress)
        if progress.kind is ProgressKind.COLLAPSE:
            self.line(f"warning  {progress.note}")
            return
        if progress.kind is ProgressKind.VALIDATION:
            self.line(f"step {step}  validation  {facts}")
            return
        facts = f"{facts}  {self._eta(progress)}"
        line = f"{progress.phase}  step {step}/{progress.total}  {facts}"
        self.advance(progress.phase, step, progress.total, facts, line)

    def end(self, root: str, validated: bool, storage: Storage) -> None:
        """Print the URLs of the weights.

        A finished run that is started again with validation shards still has no best weights.
        """
        last, best = join(root, "last.safetensors"), join(root, "best.safetensors")
        if validated and storage.exists(best):
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
