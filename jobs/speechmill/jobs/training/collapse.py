"""Finds out that a codec has stopped using its codebooks or its latent.

Too high a learning rate can move all frames to one code. The losses stay finite and even fall, so
only the codes show it. Each phase is compared with itself: what is normal depends on the codec, the
number of frames in a batch and the speech.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from speechmill.codecs.nn.usage import LATENT_DIMS_USED, LOWEST_PERPLEXITY
from speechmill.jobs.training.config import OnCollapse, TrainConfig
from speechmill.pipeline.errors import TrainingCollapsed
from speechmill.pipeline.storage import join

# Below these values nearly nothing is in use: under two equally frequent codes in the codebook that
# is used least, or no dimension of the latent.
FLOORS = {LOWEST_PERPLEXITY: 2.0, LATENT_DIMS_USED: 1.0}
WINDOW = 10  # steps; their median ignores a few odd batches, such as silent ones
FIRST = 20  # step of a phase at which it is judged first
PATIENCE = 500  # steps in which the use of a new network may be low
_SHARE = 0.1  # of the phase's highest median


@dataclass(frozen=True, slots=True)
class Collapse:
    """A fall of the use of codebooks or latent to nearly nothing."""

    step: int
    phase: str
    metric: str
    value: float  # median of the last steps
    highest: float  # the highest median of this phase, with fewer steps at its start
    highest_step: int
    healthy_step: int  # the last step with at least half of the highest median; 0: none

    def __str__(self) -> str:
        before = f"at step {self.highest_step} it was {self.highest:.3g}"
        return (
            f"phase {self.phase} has collapsed at step {self.step}: {self.metric} is "
            f"{self.value:.3g}, {before if self.highest_step else 'as from the start'}"
        )

    @property
    def cure(self) -> str:
        """What to change in the configuration."""
        name = f"phases.{self.phase}"
        return f"lower {name}.lr or raise {name}.warmup"


@dataclass
class CollapseDetector:
    """Watches the steps of one phase; all workers of a run have equal ones.

    A phase has collapsed when the median of the last steps falls below the floor or below a tenth
    of its highest value. It has recovered when the median is twice that limit.
    """

    recent: list[float] = field(default_factory=list)
    num_steps: int = 0
    highest: float = 0.0
    highest_step: int = 0
    healthy_step: int = 0
    collapse: Collapse | None = None  # the present one

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> "CollapseDetector":
        """Return the detector of a checkpoint; early versions saved none."""
        collapse = saved.get("collapse")
        return cls(**{**saved, "collapse": Collapse(**collapse) if collapse else None})

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def add(self, step: int, phase: str, values: Mapping[str, float]) -> Collapse | None:
        """Add the metrics of a step; return a collapse only in the step that shows it first."""
        metric = next((name for name in FLOORS if name in values), None)
        if metric is None:
            return None
        floor, last = FLOORS[metric], values[metric]
        self.num_steps += 1
        self.recent = [*self.recent, last][-WINDOW:]
        if last >= max(floor, self.highest / 2):
            self.healthy_step = step
        now = median(self.recent)
        if now > self.highest:
            self.highest, self.highest_step = now, step
        limit = self._limit(floor)
        if self.collapse:
            if now >= 2 * limit:
                self.collapse = None
        elif now < limit and self.num_steps >= FIRST:
            highest = (self.highest, self.highest_step, self.healthy_step)
            self.collapse = Collapse(step, phase, metric, now, *highest)
            return self.collapse
        return None

    def _limit(self, floor: float) -> float:
        """Return the median below which the phase has collapsed; 0 while that cannot be said."""
        if self.highest < 2 * floor and self.num_steps < PATIENCE:
            return 0.0
        return max(floor, _SHARE * self.highest)


def refuse_collapsed(checkpoint: Mapping[str, Any], config: TrainConfig, root: str) -> None:
    """Raise `TrainingCollapsed` if the run at `root` has collapsed and should stop then.

    The error names the newest weights from before the collapse.
    """
    collapse = CollapseDetector.from_dict(checkpoint.get("collapse", {})).collapse
    if collapse is None or config.on_collapse != OnCollapse.STOP:
        return
    steps = {"last": checkpoint["weights_step"], "best": checkpoint["best"]["step"]}
    before = [(step, name) for name, step in steps.items() if 0 < step <= collapse.healthy_step]
    start = "this run has no weights from before the collapse, so start as it did"
    if before:
        step, name = max(before)
        url = join(root, f"{name}.safetensors")
        start = f"codec.checkpoint={url} takes the weights of step {step}, before the collapse"
    raise TrainingCollapsed(
        f"{collapse}, and on_collapse is stop; to go on, {collapse.cure} and give another output, "
        f"because a run keeps its configuration; {start}; on_collapse=warn continues this run"
    )
