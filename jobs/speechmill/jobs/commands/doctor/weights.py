"""Checks of a codec: its weights, and the codes that it gives on this machine."""

from collections.abc import Iterator
from typing import Any

from speechmill.codecs import CodecInfo
from speechmill.codecs.errors import CheckpointError
from speechmill.jobs.commands.doctor.checks import Said, ok, warning
from speechmill.jobs.schemas import TokenizeConfig


def weights(config: TokenizeConfig, on_device: bool) -> Iterator[Said]:
    """Fetch and load the codec, and compare its codes of a known clip with those of float32.

    It computes on the device of the run if that is of this machine, else in float32 on the CPU.
    """
    from speechmill.codecs import load_codec
    from speechmill.pipeline.tokenize.canary import Canary, place, reference_codes

    info = config.codec.info()
    options = _options(config, on_device)
    device, precision = options["device"], options["precision"]
    codec = load_codec(**options, self_check=False)
    canary = Canary(codec, device, precision, reference_codes(info, options))
    equal = "unknown" if canary.equal is None else f"{canary.equal:.0%}"
    said = (
        f"{info.title}, revision {info.revision}, {_source(info)}: {equal} of the codes of a known "
        f"clip equal those of float32, in {precision} on {place(device)}"
    )
    if info.trained:
        yield ok(said)
    else:
        yield warning(f"{said}; random weights give tokens without a meaning: set codec.checkpoint")
    if device.startswith("cuda"):
        yield from _batch(codec, config.batch.seconds, device)


def weights_cure(error: Exception) -> str:
    """What to do about weights whose error does not say so itself."""
    if not isinstance(error, CheckpointError) or "; " in str(error):
        return ""
    return "set codec.checkpoint to a whole file of this codec, or leave it out"


def _options(config: TokenizeConfig, on_device: bool) -> dict[str, Any]:
    """The arguments of the loader; compiling takes minutes, and changes no weight."""
    options = {name: value for name, value in config.codec_options().items() if name != "compile"}
    return options if on_device else options | {"device": "cpu", "precision": "fp32"}


def _source(info: CodecInfo) -> str:
    if not info.checkpoint_sha256:
        return "no weights" if info.trained else "random weights"
    return f"weights with sha256 {info.checkpoint_sha256[:12]}… loaded strictly"


def _batch(codec: Any, seconds: float, device: str) -> Iterator[Said]:
    """Encode a batch of `batch.seconds` on a GPU, which must hold it beside the weights."""
    import torch

    from speechmill.codecs.self_check import known_clip
    from speechmill.pipeline.tokenize.device import SplittingCodec

    clip_BT = known_clip(codec.info.sample_rate)
    rows = max(1, int(seconds * codec.info.sample_rate / clip_BT.shape[1]))
    splitting = SplittingCodec(codec)
    splitting.encode(clip_BT.repeat(rows, 1), torch.full((rows,), clip_BT.shape[1]))
    used = torch.cuda.max_memory_allocated(device) / 1e9
    total = torch.cuda.get_device_properties(device).total_memory / 1e9
    said = f"a batch of {seconds:g} s takes {used:.1f} of {total:.0f} GB of {device}"
    if splitting.budget is not None:
        yield warning(f"{said}, and is split because it does not fit; lower batch.seconds")
    else:
        yield ok(said)
