"""The share of tokens that another precision, or compiling, changes.

    python -m tests.bench.mismatch [focalcodec-50hz …] [--audio FOLDER] [--clips 6] [--device cuda]

Tokens are compared, codebook by codebook, with those of the same clips encoded one by one in
float32 without compiling. Full-size codecs have random weights, whose decisions are closer to ties
than those of trained weights; the goldens are small networks. `batch` must be 0. On a GPU, batches
have the fixed shapes of the pipeline.
"""

import argparse
from pathlib import Path
from typing import Any

import soundfile
import soxr
import torch
from torch import Tensor

from speechmill.codecs import Codec, UnsupportedPrecision, load_codec
from speechmill.codecs.fixed_shapes import FixedShapeCodec
from speechmill.codecs.shapes import ShapeSettings, plan_shapes
from tests.codecs.speech import padded

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
MODES: dict[str, dict[str, Any]] = {
    "batch": {},
    "tf32": {"precision": "tf32"},
    "bf16": {"precision": "bf16"},
    "fp16": {"precision": "fp16"},
    "compile": {"compile": True},
}
FULL = (
    "focalcodec-50hz",
    "focalcodec-50hz-4k-causal",
    "dualcodec-12hz",
    "dualcodec-25hz",
    "simwhisper-16k",
    "pure-1k",
    "hasrd-2k",
)
GOLDEN: dict[str, dict[str, Any]] = {
    "focalcodec": {
        "config": DATA / "focalcodec/offline_50hz/config.json",
        "checkpoint": DATA / "focalcodec/offline_50hz/state_dict.ckpt_v001.safetensors",
    },
    "dualcodec": {
        "config": DATA / "dualcodec/e2e_patched/config.json",
        "checkpoint": DATA / "dualcodec/e2e_patched/state_dict.safetensors",
        "semantic_checkpoint": DATA / "dualcodec/e2e_patched/w2vbert_state_dict.safetensors",
        "semantic_stats": DATA / "dualcodec/e2e_patched/w2v_mean_var.safetensors",
    },
    "simwhisper": {
        "config": DATA / "simwhisper/config.json",
        "checkpoint": DATA / "simwhisper/state_dict.safetensors",
    },
}


def speech_of(folder: Path, count: int, rate: int, longest: float) -> list[Tensor]:
    """The first clips of a folder, mono, at `rate` Hz, cut to different lengths."""
    clips = []
    for number, path in enumerate(sorted(folder.rglob("*.flac"))[:count]):
        audio_TC, found = soundfile.read(path, always_2d=True, dtype="float32")
        audio_T = torch.from_numpy(soxr.resample(audio_TC[:, 0], found, rate))
        clips.append(audio_T[: int(longest * rate * (1 - number / (2 * count)))])
    return clips


def alone(codec: Codec, clips: list[Tensor]) -> Tensor:
    """Codes of the clips one by one, concatenated: (K, all frames)."""
    rows = [codec.encode(clip_T[None], torch.tensor([len(clip_T)]))[0] for clip_T in clips]
    return torch.cat([codes_KF.cpu() for codes_KF in rows], dim=1)


def together(codec: Codec, clips: list[Tensor], device: str) -> Tensor:
    """Codes of the clips from one batch, or on a GPU from those of their shapes, concatenated."""
    if device != "cpu":
        codec = FixedShapeCodec(codec, plan_shapes(codec.info, ShapeSettings()))
    frames = [codec.info.num_frames(len(clip_T)) for clip_T in clips]
    codes_BKF = codec.encode(*padded(clips, extra=1_234, garbage=0.3)).cpu()
    rows = zip(codes_BKF, frames, strict=True)
    return torch.cat([codes_KF[:, :count] for codes_KF, count in rows], dim=1)


def row(name: str, mode: str, expected_KN: Tensor, clips: list[Tensor], **options: Any) -> str:
    """One row of the table; n/a if the device lacks the precision."""
    try:
        codec = load_codec(name, **options, **MODES[mode])
    except UnsupportedPrecision:
        return f"| {name} | {mode} | n/a on {options['device']} | |"
    differs_K = (together(codec, clips, options["device"]) != expected_KN).double().mean(1).tolist()
    books = ", ".join(f"{share:.2%}" for share in differs_K)
    frames = expected_KN.shape[1]
    return (
        f"| {name} | {mode} | {sum(differs_K) / len(differs_K):.2%} | {books} ({frames} frames) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codecs", nargs="*", default=[*GOLDEN, *FULL])
    parser.add_argument("--modes", nargs="*", default=list(MODES), choices=list(MODES))
    parser.add_argument("--audio", type=Path, default=ROOT / "samples")
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--longest", type=float, default=6.0, help="seconds")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print("| codec | differs from float32 alone | tokens | per codebook |\n|---|---|---|---|")
    for name in arguments.codecs:
        weights = GOLDEN.get(name, {"checkpoint": "untrained"})
        options = {**weights, "device": arguments.device}
        codec = load_codec(name, **options)
        clips = speech_of(
            arguments.audio, arguments.clips, codec.info.sample_rate, arguments.longest
        )
        expected_KN = alone(codec, clips)
        del codec
        for mode in arguments.modes:
            print(row(name, mode, expected_KN, clips, **options), flush=True)


if __name__ == "__main__":
    main()
