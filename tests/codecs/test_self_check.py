"""A codec is refused on a device that computes it wrongly in the precision asked for."""

import re
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn

from speechmill.codecs import UnsupportedPrecision, load_codec, load_recipe
from speechmill.codecs.self_check import first_wrong_module, known_clip, refuse_wrong_modules
from tests.codecs.cases import CASES, PURE
from tests.codecs.dualcodec.goldens import WEIGHTS
from tests.codecs.wrong_cpu import computes_bf16_wrongly

CPU = torch.device("cpu")


@pytest.fixture
def wrong_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make strided bf16 convolutions wrong, like those of a CPU with AMX, by mixing channels."""
    right = nn.Conv1d._conv_forward

    def wrong(self: nn.Conv1d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        y: Tensor = right(self, x, weight, bias)
        lower = torch.is_autocast_enabled("cpu") and self.stride[0] >= 4
        return y.flip(1) if lower else y

    monkeypatch.setattr(nn.Conv1d, "_conv_forward", wrong)


def test_a_device_with_wrong_kernels_is_refused_with_the_module_and_the_cure(
    wrong_convolutions: None,
) -> None:
    message = (
        rf"bf16 on this CPU with torch {re.escape(torch.__version__)} gives other codes than "
        r"float32 for \d+% of a known clip; the first module that differs is "
        r"encoder\.stages\.1\.down\.conv; use precision=fp32"
    )
    with pytest.raises(UnsupportedPrecision, match=message):
        load_codec("pure", config=PURE, precision="bf16")


def test_the_float32_codec_that_it_is_compared_with_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda compute, **_: compiled.append(compute) or compute)
    load_codec("pure", config=PURE, compile=True)
    layers = len(compiled)
    with suppress(UnsupportedPrecision):  # raised on a CPU with AMX
        load_codec("pure", config=PURE, precision="bf16", compile=True)
    assert layers > 0
    assert len(compiled) == 2 * layers


def test_float32_is_not_checked_and_not_refused(wrong_convolutions: None) -> None:
    assert load_codec("pure", config=PURE).info.name == "pure"


@pytest.mark.parametrize("case", CASES)
def test_a_right_device_has_no_wrong_module(case: str) -> None:
    codec = CASES[case].load()
    clip_BT = known_clip(codec.info.sample_rate)
    for network in [v for v in vars(codec).values() if isinstance(v, nn.Module)]:
        found = first_wrong_module(
            network, lambda: codec.encode(clip_BT, torch.tensor([clip_BT.shape[1]])), "bf16", CPU
        )
        if found and computes_bf16_wrongly():
            pytest.skip(f"this CPU computes {found} wrongly in bf16")
        assert found is None


def test_a_codec_that_only_decodes_is_not_checked() -> None:
    files = {name: WEIGHTS[name] for name in ("config", "checkpoint")}
    assert load_codec("dualcodec", **files, precision="bf16").info.name == "dualcodec"


def test_training_on_such_a_device_is_refused_too(wrong_convolutions: None) -> None:
    recipe = load_recipe("pure", config=PURE)
    arguments = (recipe, recipe.reconstruct, recipe.sample_rate, recipe.hop_length)
    refuse_wrong_modules(*arguments, "fp32", CPU)
    with pytest.raises(UnsupportedPrecision, match=r"computes network\.encoder\..*conv wrongly"):
        refuse_wrong_modules(*arguments, "bf16", CPU)
    assert recipe.training
