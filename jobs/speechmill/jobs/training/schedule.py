"""Which phase a step belongs to, and its learning rate: pure functions of the configuration."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import cos, pi

from speechmill.jobs.training.config import PhaseSettings


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase and the steps of the run that are its own."""

    name: str
    settings: PhaseSettings
    first: int  # step of the run, from 0
    end: int  # the first step that is no longer its own

    def lr(self, step: int) -> float:
        """Return the learning rate of a step of the run."""
        s, since = self.settings, step - self.first
        if since < s.warmup:
            return s.lr * (since + 1) / s.warmup
        if s.schedule == "cosine":
            progress = (since - s.warmup) / max(1, s.steps - s.warmup)
            return s.lr * (s.final_lr + (1 - s.final_lr) * (1 + cos(pi * progress)) / 2)
        if s.schedule == "exponential":
            return float(s.lr * s.decay ** (since // s.decay_every))
        return s.lr

    def adversarial(self, step: int) -> bool:
        """Return whether discriminators take part in a step of the run."""
        start = self.settings.adversarial_from
        return start is not None and step - self.first >= start


def plan(phases: Mapping[str, PhaseSettings]) -> list[Phase]:
    """Return the phases one behind the other."""
    return list(_plan(phases))


def _plan(phases: Mapping[str, PhaseSettings]) -> Iterator[Phase]:
    first = 0
    for name, settings in phases.items():
        yield Phase(name, settings, first, first + settings.steps)
        first += settings.steps
