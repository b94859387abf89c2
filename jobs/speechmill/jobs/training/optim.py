"""The optimizer, and its learning rate at every step of a run."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import cos, isfinite, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from speechmill.jobs.training.config import OptimizerSettings, PhaseSettings, Schedule


class Optimizer:
    """AdamW with a clipped gradient and, in fp16, with a scaled loss.

    Small gradients are zero in fp16, so the loss is multiplied by a scale. After a step whose
    gradient overflowed the scale is halved; after 2,000 steps without overflow it is doubled.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        settings: OptimizerSettings,
        precision: str,
        device: torch.device,
    ):
        beta1, beta2 = settings.betas
        self.parameters = list(parameters)
        self.adamw = torch.optim.AdamW(
            self.parameters,
            betas=(beta1, beta2),
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            fused=True if device.type == "cuda" else None,
        )
        self.scaler = GradScaler(device.type, enabled=precision == "fp16")
        self.clip = float("inf") if settings.clip_grad is None else settings.clip_grad

    def backward(self, loss: Tensor) -> Tensor:
        """Compute and clip the gradient; return its norm before clipping, without waiting for it.

        The norm is not finite if the gradient is not; then no `step` may follow.
        """
        self.adamw.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        self.scaler.unscale_(self.adamw)
        self.scaler.update()
        return nn.utils.clip_grad_norm_(self.parameters, self.clip)

    def step(self, lr: float) -> None:
        for group in self.adamw.param_groups:
            group["lr"] = lr
        self.adamw.step()

    def overflowed(self, loss: float, norm: float) -> bool:
        """Whether only the scale made the norm infinite; a scale below 1 cannot."""
        if not self.scaler.is_enabled() or not isfinite(loss) or isfinite(norm):
            return False
        return self.scaler.get_scale() >= 1

    def state_dict(self, prefix: str = "") -> dict[str, Any]:
        """Return its entries of a checkpoint."""
        return {
            f"{prefix}optimizer": self.adamw.state_dict(),
            f"{prefix}scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, saved: Mapping[str, Any], prefix: str = "") -> None:
        """Continue from a checkpoint, which may have been written on another kind of device."""
        own, state = self.adamw.param_groups[0], saved[f"{prefix}optimizer"]
        groups = [{**group, "fused": own["fused"]} for group in state["param_groups"]]
        self.adamw.load_state_dict({**state, "param_groups": groups})
        if scaler := saved.get(f"{prefix}scaler"):  # empty unless the run is in fp16
            self.scaler.load_state_dict(scaler)


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
