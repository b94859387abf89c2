"""One optimizer and one step of it."""

from typing import Any

import torch
from torch import Tensor, nn

from speechmill.jobs.training.config import OptimizerSettings


def adamw(parameters: Any, settings: OptimizerSettings) -> torch.optim.AdamW:
    """Return the optimizer of some parameters; its learning rate is set at each step."""
    beta1, beta2 = settings.betas
    return torch.optim.AdamW(
        list(parameters),
        betas=(beta1, beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )


def descend(
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
