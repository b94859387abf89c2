"""Refuse a device that computes a codec wrongly in a lower precision than float32.

PyTorch 2.14 computes some bf16 convolutions wrongly on CPUs with AMX: the codes are then garbage,
and nothing says so. A known clip of speech goes through the codec in float32 and in the precision
that was asked for. Rounding leaves 70 to 95 % of the first codebook's codes equal, wrong kernels
leave less than 10 %.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor, nn

from speechmill.codecs.api import Codec
from speechmill.codecs.errors import InvalidConfig, UnsupportedPrecision
from speechmill.codecs.precision import autocast

MIN_EQUAL_CODES = 0.5  # share of the first codebook's codes
_WRONG = 0.3  # relative error of a module's output; rounding to bf16 gives 0.01
_CLIP_RATE = 16_000  # Hz


@cache  # workers encode it before each part
def known_clip(sample_rate: int) -> Tensor:
    """Return audio_BT: 2 s of synthetic Spanish speech, float32, at `sample_rate` Hz."""
    stored = files("speechmill.codecs").joinpath("self_check.safetensors").read_bytes()
    audio_BT = load(stored)["audio_T"][None] / 32768
    if sample_rate == _CLIP_RATE:
        return audio_BT
    from torchaudio.functional import resample

    resampled_BT: Tensor = resample(audio_BT, _CLIP_RATE, sample_rate)
    return resampled_BT


def encode_clip(codec: Codec) -> Tensor:
    """Return the codes of the known clip, codes_BKF in host memory."""
    clip_BT = known_clip(codec.info.sample_rate)
    return codec.encode(clip_BT, torch.tensor([clip_BT.shape[1]])).cpu()


def refuse_wrong_codes(codec: Codec, exact: Codec, precision: str, device: torch.device) -> None:
    """Raise `UnsupportedPrecision` if `codec` gives other codes than `exact`, which is in float32.

    Codecs that only decode are not checked: they make no codes.
    """
    try:
        expected_BKF = encode_clip(exact)
    except InvalidConfig:  # raised by a codec that was loaded for decoding alone
        return
    found_BKF = encode_clip(codec)
    equal = float((found_BKF[:, 0] == expected_BKF[:, 0]).float().mean())
    if equal >= MIN_EQUAL_CODES:
        return
    culprit = None
    for name, network in _networks(exact):
        culprit = culprit or first_wrong_module(
            network, lambda: encode_clip(exact), precision, device, name
        )
    where = f"; the first module that differs is {culprit}" if culprit else ""
    raise UnsupportedPrecision(
        f"{precision} on {_device_name(device)} with torch {torch.__version__} gives other codes "
        f"than float32 for {1 - equal:.0%} of a known clip{where}; use precision=fp32"
    )


def refuse_wrong_modules(
    network: nn.Module,
    compute: Callable[[Tensor], object],
    sample_rate: int,
    hop_length: int,
    precision: str,
    device: torch.device,
) -> None:
    """Raise `UnsupportedPrecision` if a module of a network in training is wrong in `precision`.

    `compute` takes audio_BT of whole frames. In float32 there is nothing to check.
    """
    if precision == "fp32":
        return
    clip_BT = known_clip(sample_rate)
    clip_BT = clip_BT[:, : clip_BT.shape[1] // hop_length * hop_length].to(device)
    was_training = network.training
    network.eval()
    with torch.no_grad(), autocast("fp32", device):
        culprit = first_wrong_module(network, lambda: compute(clip_BT), precision, device)
    network.train(was_training)
    if culprit:
        raise UnsupportedPrecision(
            f"{precision} on {_device_name(device)} with torch {torch.__version__} computes "
            f"{culprit} wrongly; use precision=fp32"
        )


def first_wrong_module(
    network: nn.Module,
    run: Callable[[], object],
    precision: str,
    device: torch.device,
    prefix: str = "",
) -> str | None:
    """Return the name of the first module whose output is wrong in `precision`, or None.

    `run` calls the network in float32. Each module without children computes its output once more
    in `precision`, from the same input.
    """
    wrong: list[str] = []

    def compare(
        name: str, module: nn.Module, inputs: tuple[Any, ...], more: dict[str, Any], output: Any
    ) -> None:
        if wrong or not isinstance(output, Tensor) or not output.is_floating_point():
            return
        with autocast(precision, device):
            again = module.forward(*inputs, **more)
        error = torch.linalg.vector_norm(again.float() - output.float())
        if not error <= _WRONG * torch.linalg.vector_norm(output.float()):
            wrong.append(name)

    with _hooks(network, compare):
        run()
    return ".".join(filter(None, (prefix, wrong[0]))) if wrong else None


@contextmanager
def _hooks(network: nn.Module, compare: Callable[..., None]) -> Iterator[None]:
    handles = [
        module.register_forward_hook(
            lambda module, inputs, more, output, name=name: compare(
                name, module, inputs, more, output
            ),
            with_kwargs=True,
        )
        for name, module in network.named_modules()
        if all(child == "parametrizations" for child, _ in module.named_children())
        and "parametrizations" not in name.split(".")
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _networks(codec: Codec) -> list[tuple[str, nn.Module]]:
    """Return the modules that a codec keeps as attributes, with the prefix of their names."""
    found = ((k, v) for k, v in vars(codec).items() if isinstance(v, nn.Module))
    return [("" if name == "network" else name, module) for name, module in found]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this CPU"
