"""The share of codes that precision, batch and device change, against float32 alone."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor

from speechmill.codecs import Codec, load_codec
from speechmill.codecs.fixed_shapes import FixedShapeCodec
from speechmill.codecs.self_check import encode_clip
from speechmill.pipeline.tokenize.canary import (
    Reference,
    clip_digest,
    equal_codes,
    least_equal,
)
from tests.gpu.inputs import arguments_of
from tests.gpu.kit import DEVICE, attempt, collect_garbage, emit, results, seconds_left, sized
from tests.gpu.network import load, nearest, planned, real_clips

_PRECISIONS = sized(("fp32", "bf16", "tf32", "fp16"), ("fp32",))
_SECONDS = sized(3.0, 0.3)  # of the width that is measured
_PLAIN_ROWS = 8


def measure_mismatch(name: str) -> None:
    exact = load(name, "fp32")
    clips = speech_of(exact)
    truth_KN = encode_alone(exact, clips)
    reference = None
    with attempt("cpu", codec=name):
        reference = compare_with_cpu(name, exact, clips[:3])
    del exact
    for precision in _PRECISIONS:
        if seconds_left() < 4:
            break
        with attempt("mismatch", codec=name, precision=precision):
            compare_with_exact(name, precision, clips, truth_KN, reference)
        collect_garbage()


def speech_of(codec: Codec) -> list[Tensor]:
    """Return clips for batches of the width that is measured; some are shorter than usual there."""
    shapes = planned(codec.info)
    width = shapes.widths[nearest(codec.info, shapes, _SECONDS)]
    rate = codec.info.sample_rate
    return real_clips(rate, sized(16, 2), width / rate)


def compare_with_cpu(name: str, exact: Codec, clips: Sequence[Tensor]) -> Reference:
    """Compare float32 on this device with float32 on the CPU; return the canary's codes there."""
    torch.set_num_threads(sized(os.cpu_count() or 1, 1))
    reference = load_codec(**{**arguments_of(name), "precision": "fp32", "device": "cpu"})
    cpu_KN, gpu_KN = encode_alone(reference, clips), encode_alone(exact, clips)
    emit(
        step="mismatch",
        codec=name,
        what="fp32 alone, this device against a CPU",
        codes=cpu_KN.numel(),
        percent=percent(gpu_KN, cpu_KN),
    )
    return Reference(clip_digest(), tuple(map(tuple, encode_clip(reference)[0].tolist())))


def compare_with_exact(
    name: str,
    precision: str,
    clips: Sequence[Tensor],
    truth_KN: Tensor,
    reference: Reference | None,
) -> None:
    """Compare batches of one fixed shape with float32 alone and with each other.

    In a fixed shape, neither the row nor the other rows should change a code.
    """
    codec = load(name, precision)
    fixed_KN = encode_fixed(codec, clips)
    emit(
        step="mismatch",
        codec=name,
        precision=precision,
        codes=truth_KN.numel(),
        fixed=percent(fixed_KN, truth_KN),
        fixed_in_other_batches=percent(other_batches(codec, clips), fixed_KN),
        fixed_by_itself=percent(by_itself(codec, clips), fixed_KN),
        fixed_twice=percent(encode_fixed(codec, clips), fixed_KN),
        digest=digest(fixed_KN),
    )
    alone_KN, plain_KN = encode_alone(codec, clips), encode_together(codec, clips)
    emit(
        step="mismatch",
        codec=name,
        precision=precision,
        what="batches of any shape",
        alone=percent(alone_KN, truth_KN),
        batch=percent(plain_KN, truth_KN),
        batch_against_alone=percent(plain_KN, alone_KN),
    )
    if reference:
        found_BKF = encode_clip(FixedShapeCodec(codec, planned(codec.info)))
        share, least = (
            equal_codes(found_BKF, reference, precision),
            least_equal(codec.info, precision),
        )
        emit(step="canary", codec=name, precision=precision, equal=round(share, 4), least=least)


def again(name: str) -> None:
    """Encode in another process than the step of the codec: the codes must be the same."""
    for precision in sized(("bf16", "fp32"), ("fp32",)):
        with attempt("again", codec=name, precision=precision):
            codec = load(name, precision)
            found = digest(encode_fixed(codec, speech_of(codec)))
            before = [r["digest"] for r in results() if _is_digest(r, name, precision)]
            same = found == before[-1] if before else None
            emit(step="again", codec=name, precision=precision, digest=found, same_codes=same)


def _is_digest(result: dict[str, object], name: str, precision: str) -> bool:
    of_codec = (result.get("codec"), result.get("precision")) == (name, precision)
    return result["step"] == "mismatch" and of_codec and "digest" in result


def digest(codes_KN: Tensor) -> str:
    return xxhash.xxh3_64_hexdigest(codes_KN.contiguous().numpy().tobytes())


def encode_fixed(codec: Any, clips: Sequence[Tensor]) -> Tensor:
    """Return codes_KN out of batches of one shape, whose last rows are silence if too many."""
    return _in_rows(codec, clips, range(_shape(codec)[0]), 0.0)


def other_batches(codec: Any, clips: Sequence[Tensor]) -> Tensor:
    """As `encode_fixed`, but every clip in another row, beside other clips and noise."""
    count = _shape(codec)[0]
    return _in_rows(codec, clips, range(count - 1, count // 2 - 1, -1), 0.1)


def by_itself(codec: Any, clips: Sequence[Tensor]) -> Tensor:
    """As `encode_fixed`, but each clip in a batch that is silence otherwise."""
    return _in_rows(codec, clips, [_shape(codec)[0] // 2], 0.0)


def _shape(codec: Codec) -> tuple[int, int]:
    shapes = planned(codec.info)
    bucket = nearest(codec.info, shapes, _SECONDS)
    return shapes.rows[bucket], shapes.widths[bucket]


def _in_rows(codec: Any, clips: Sequence[Tensor], rows: Sequence[int], noise: float) -> Tensor:
    """Return codes_KN of the clips from these rows of batches; the other rows are noise."""
    generator = torch.Generator().manual_seed(0)
    codes: list[Tensor] = []
    for start in range(0, len(clips), len(rows)):
        part = clips[start : start + len(rows)]
        audio_RT = noise * torch.randn(_shape(codec), generator=generator)
        lengths_R = torch.full(audio_RT.shape[:1], audio_RT.shape[1])
        for row, clip_T in zip(rows, part, strict=False):
            lengths_R[row] = len(clip_T)
            audio_RT[row] = 0
            audio_RT[row, : len(clip_T)] = clip_T
        codes_RKF = codec.encode_padded(audio_RT.to(DEVICE), lengths_R.to(DEVICE)).cpu()
        codes += _trimmed(codec, [codes_RKF[row] for row in rows[: len(part)]], part)
    return torch.cat(codes, 1)


def _trimmed(codec: Codec, rows: Iterable[Tensor], clips: Sequence[Tensor]) -> list[Tensor]:
    """Return the codes of each clip without those after its end."""
    frames = [codec.info.num_frames(len(clip_T)) for clip_T in clips]
    return [codes_KF[:, :count] for codes_KF, count in zip(rows, frames, strict=True)]


def encode_alone(codec: Any, clips: Sequence[Tensor]) -> Tensor:
    """Return codes_KN of the clips one by one, each at its own length."""
    rows = [codec.encode(clip_T[None], torch.tensor([len(clip_T)]))[0].cpu() for clip_T in clips]
    return torch.cat(rows, 1)


def encode_together(codec: Any, clips: Sequence[Tensor]) -> Tensor:
    """Return codes_KN of the clips from batches as wide as the longest of them."""
    codes: list[Tensor] = []
    for start in range(0, len(clips), _PLAIN_ROWS):
        part = clips[start : start + _PLAIN_ROWS]
        audio_BT = torch.nn.utils.rnn.pad_sequence(list(part), batch_first=True)
        codes_BKF = codec.encode(audio_BT, torch.tensor([len(clip_T) for clip_T in part])).cpu()
        codes += _trimmed(codec, codes_BKF, part)
    return torch.cat(codes, 1)


def percent(codes_KN: Tensor, expected_KN: Tensor) -> list[float]:
    """Return the percentage of codes that differ, by codebook."""
    return [round(100 * share, 3) for share in (codes_KN != expected_KN).double().mean(1).tolist()]
