"""The optimizer, one step of it, and its learning rate at every step of a run."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn

from speechmill.jobs.training.config import OptimizerSettings, PhaseSettings, Schedule


def adamw(parameters: Any, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return the optimizer of some parameters; each step sets its learning rate."""
    beta1, beta2 = settings.betas
    return torch.optim.AdamW(
        list(parameters),
        betas=(beta1, beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def optimizer_step(
    optimizer: torch.optim.Optimizer, loss: Tensor, lr: float, clip: float | None
) -> Tensor:
    """Take a step unless the gradient is not finite; return the gradient's norm."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    norm = nn.utils.clip_grad_norm_(parameters, float("inf") if clip is None else clip)
    if bool(norm.isfinite()):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    return norm


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase and its steps within the run."""

    name: str
    settings: PhaseSettings
    first: int  # step of the run, from 0
    end: int  # the first step after the phase

    def lr(self, step: int) -> float:
        """Return the learning rate at a step of the run."""
        s, since = self.settings, step - self.first
        if since < s.warmup:
            return s.lr * (since + 1) / s.warmup
        match Schedule(s.schedule):
            case Schedule.COSINE:
                progress = (since - s.warmup) / max(1, s.steps - s.warmup)
                return s.lr * (s.final_lr + (1 - s.final_lr) * (1 + cos(pi * progress)) / 2)
            case Schedule.EXPONENTIAL:
                return float(s.lr * s.decay ** (since // s.decay_every))
            case Schedule.CONSTANT:
                return s.lr

    def adversarial(self, step: int) -> bool:
        """Return whether discriminators take part in a step of the run."""
        start = self.settings.adversarial_from
        return start is not None and step - self.first >= start


def plan_phases(phases: Mapping[str, PhaseSettings]) -> list[Phase]:
    """Return the phases in their order, each after the end of the one before."""
    return list(_plan(phases))


def _plan(phases: Mapping[str, PhaseSettings]) -> Iterator[Phase]:
    first = 0
    for name, settings in phases.items():
        yield Phase(name, settings, first, first + settings.steps)
        first += settings.steps
