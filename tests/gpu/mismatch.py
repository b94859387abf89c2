"""The share of codes that precision, batch and device change, against float32 alone."""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from speechmill.codecs import Codec, load_codec
from tests.gpu.inputs import arguments_of
from tests.gpu.kit import DEVICE, attempt, collect_garbage, emit, seconds_left, sized
from tests.gpu.network import load, real_clips

_BATCH = 8  # clips


def measure_mismatch(name: str) -> None:
    exact = load(name, "fp32")
    clips = real_clips(exact.info.sample_rate, sized(16, 2), sized(8.0, 0.4))
    truth_KN = encode_alone(exact, clips)
    emit(
        step="mismatch",
        codec=name,
        unit="% by codebook, against fp32 alone on this device",
        frames=truth_KN.shape[1],
        **{"fp32 batch": percent(encode_together(exact, clips), truth_KN)},
    )
    if DEVICE == "cuda":
        with attempt("cpu", codec=name):
            compare_with_cpu(name, exact, clips[:3])
    del exact
    collect_garbage()
    for precision in sized(("bf16", "tf32", "fp16"), ("fp32",)):
        if seconds_left() < 4:
            break
        with attempt("mismatch", codec=name, precision=precision):
            compare_with_exact(name, precision, clips, truth_KN)
        collect_garbage()


def compare_with_cpu(name: str, exact: Codec, clips: Sequence[Tensor]) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    reference = load_codec(**{**arguments_of(name), "precision": "fp32", "device": "cpu"})
    cpu_KN, gpu_KN = encode_alone(reference, clips), encode_alone(exact, clips)
    emit(
        step="mismatch",
        codec=name,
        what="fp32 alone, GPU against CPU",
        frames=cpu_KN.shape[1],
        percent=percent(gpu_KN, cpu_KN),
    )


def compare_with_exact(
    name: str, precision: str, clips: Sequence[Tensor], truth_KN: Tensor
) -> None:
    codec = load(name, precision)
    alone_KN, batch_KN = encode_alone(codec, clips), encode_together(codec, clips)
    shuffled = sorted(range(len(clips)), key=lambda i: (i * 7) % len(clips))
    other_KN = encode_together(codec, clips, shuffled)
    emit(
        step="mismatch",
        codec=name,
        precision=precision,
        alone=percent(alone_KN, truth_KN),
        batch=percent(batch_KN, truth_KN),
        batch_against_alone=percent(batch_KN, alone_KN),
        batch_against_other_batches=percent(batch_KN, other_KN),
        twice_the_same=percent(encode_together(codec, clips), batch_KN),
    )


def encode_alone(codec: Codec, clips: Sequence[Tensor]) -> Tensor:
    """Return codes_KN of the clips one by one, concatenated."""
    rows = [codec.encode(clip_T[None], torch.tensor([len(clip_T)]))[0].cpu() for clip_T in clips]
    return torch.cat(rows, 1)


def encode_together(
    codec: Codec, clips: Sequence[Tensor], order: Sequence[int] | None = None
) -> Tensor:
    """Return codes_KN of the clips from batches in this order, concatenated as `clips` are."""
    order = range(len(clips)) if order is None else order
    rows: dict[int, Tensor] = {}
    for start in range(0, len(order), _BATCH):
        part = order[start : start + _BATCH]
        num_samples_B = torch.tensor([len(clips[i]) for i in part])
        audio_BT = torch.zeros(len(part), int(num_samples_B.max()), device=DEVICE)
        for row_T, i in zip(audio_BT, part, strict=True):
            row_T[: len(clips[i])] = clips[i].to(DEVICE)
        for i, codes_KF in zip(part, codec.encode(audio_BT, num_samples_B).cpu(), strict=True):
            rows[i] = codes_KF[:, : codec.info.num_frames(len(clips[i]))]
    return torch.cat([rows[i] for i in range(len(clips))], 1)


def percent(codes_KN: Tensor, expected_KN: Tensor) -> list[float]:
    """Return the percentage of codes that differ, by codebook."""
    return [round(100 * share, 3) for share in (codes_KN != expected_KN).double().mean(1).tolist()]
