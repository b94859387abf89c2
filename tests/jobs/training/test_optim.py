"""The optimizer: the scaled loss of fp16, and checkpoints of another kind of device."""

from math import isfinite

import pytest
import torch
from torch import Tensor, nn

from speechmill.jobs.training.config import OptimizerSettings
from speechmill.jobs.training.optim import Optimizer

CPU = torch.device("cpu")


def optimizer(weight: nn.Parameter, precision: str = "fp16") -> Optimizer:
    return Optimizer([weight], OptimizerSettings(), precision, CPU)


def half_loss(weight: nn.Parameter) -> Tensor:
    """A loss whose gradient is 1 and passes through fp16, where 65,536 is infinite."""
    return weight.half().sum().float()


def test_a_scale_that_overflows_is_halved_until_the_gradient_is_right() -> None:
    weight = nn.Parameter(torch.ones(1))
    trained = optimizer(weight)
    first = float(trained.backward(half_loss(weight)))
    assert not isfinite(first)
    assert trained.overflowed(1.0, first)
    second = float(trained.backward(half_loss(weight)))
    assert (second, trained.overflowed(1.0, second)) == (1.0, False)
    trained.step(0.1)
    assert weight.item() == pytest.approx(0.9)


def test_a_broken_gradient_counts_when_the_scale_is_no_longer_to_blame() -> None:
    weight = nn.Parameter(torch.ones(1))
    trained = optimizer(weight)
    excused = 0
    while trained.overflowed(1.0, float(trained.backward(half_loss(weight) * float("inf")))):
        excused += 1
    assert excused == 16
    assert not trained.overflowed(float("nan"), float("nan"))
    assert not optimizer(weight, "bf16").overflowed(1.0, float("inf"))


def test_the_scale_is_part_of_a_checkpoint() -> None:
    weight = nn.Parameter(torch.ones(1))
    trained, resumed = optimizer(weight), optimizer(weight)
    trained.backward(half_loss(weight))
    resumed.load_state_dict(trained.state_dict())
    assert isfinite(resumed.backward(half_loss(weight)))


def test_a_checkpoint_of_a_gpu_continues_on_a_cpu_and_one_without_a_scale_in_fp16() -> None:
    weight = nn.Parameter(torch.ones(1))
    fused = torch.optim.AdamW([weight], fused=True)
    weight.grad = torch.ones(1)
    fused.step()
    resumed = optimizer(weight)
    resumed.load_state_dict({"optimizer": fused.state_dict()})
    assert resumed.adamw.param_groups[0]["fused"] is None
    resumed.step(0.1)
    assert resumed.adamw.state[weight]["step"] == 2
