"""How fast a codec encodes on this CPU beside its authors' own code, in one run.

    python -m tests.bench.beside_authors focalcodec-50hz --checkout FOLDER [--python THEIR_PYTHON]

FOLDER is a checkout of the authors' repository, which stays outside this one:

    git clone https://github.com/lucadellalib/focalcodec
    git clone https://github.com/jiaqili3/DualCodec          (or unpack its wheel from PyPI)
    git clone https://github.com/ZhangXinWhut/SimWhisper-Codec

THEIR_PYTHON is the interpreter of a virtual environment with what they import and the same PyTorch
(DualCodec: pip install dualcodec; SimWhisper-Codec: its requirements.txt). Weights are random,
because speed does not depend on them. Each side has a process of its own with the allocator
settings of the workers; the sides take turns, each beginning every second round. A round in which
other processes or other guests of the host took more than a tenth of a core is repeated, while
`--patience` seconds last; after that the rounds with the least of it count. With `--threads 1` the
CPU time of the thread is measured instead of the time that passes: others disturb that much less.
"""

import argparse
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, TextIO, cast
from unittest.mock import patch

import torch
import yaml
from torch import Tensor

from tests.codecs.speech import padded, speech

CASES = {  # seconds of the clips
    "10 s": (10.0,),
    "8 of 2-20 s": (2.0, 3.5, 5.0, 7.5, 10.0, 13.0, 16.5, 20.0),
    "3 s": (3.0,),
}
SIDES = ("ours", "authors")
RATES = {  # Hz
    "focalcodec-50hz": 16_000,
    "focalcodec-25hz": 16_000,
    "focalcodec-12_5hz": 16_000,
    "dualcodec-12hz": 24_000,
    "dualcodec-25hz": 24_000,
    "simwhisper-16k": 16_000,
}
_DOWNSCALE = {
    "focalcodec-50hz": (1, 1, 1),
    "focalcodec-25hz": (2, 1, 1),
    "focalcodec-12_5hz": (2, 2, 1),
}
_REPOSITORY = Path(__file__).parents[2]

_DISTURBED = 0.1  # cores that others may use in a round

Encode = Callable[[list[Tensor]], Any]


def ours(name: str) -> Encode:
    """Return our encode of all clips of a case at once."""
    from speechmill.codecs import load_codec

    codec = load_codec(name, checkpoint="untrained", device="cpu", precision="fp32")
    return lambda clips: codec.encode(*padded(clips))


def authors(name: str) -> Encode:
    """Return the authors' encode, clip by clip: their batches compute the padding too."""
    builders = {"focalcodec": _focalcodec, "dualcodec": _dualcodec, "simwhisper": _simwhisper}
    encode_T = builders[name.split("-")[0]](name)
    return lambda clips: [encode_T(clip_T) for clip_T in clips]


def _focalcodec(name: str) -> Callable[[Tensor], Any]:
    offline = {"hidden_dims": (1024, 512, 256), "focal_window": 7, "focal_factor": 2}
    model = importlib.import_module("focalcodec").FocalCodec(
        compressor_config=offline | {"output_dim": 13, "downscale_factors": _DOWNSCALE[name]},
        quantizer_config={"codebook_size": 8192},
        decompressor_config={"input_dim": 13},
    )
    model.eval()
    return lambda audio_T: model.sig_to_toks(audio_T[None])


def _dualcodec(name: str) -> Callable[[Tensor], Any]:
    """Their `Inference`, which would load weights, with autocast to float16 switched off."""
    from transformers import SeamlessM4TFeatureExtractor, Wav2Vec2BertConfig, Wav2Vec2BertModel

    theirs = importlib.import_module("dualcodec")
    root = Path(cast(str, theirs.__file__)).parent / "conf" / "model"
    config = yaml.safe_load(next(root.glob(f"dualcodec_{name.split('-')[1]}_*.yaml")).read_text())
    sizes = {key: value for key, value in config["model"].items() if key != "_target_"}
    inference = theirs.Inference.__new__(theirs.Inference)
    inference.model = theirs.DualCodec(**sizes | {"sample_rate": RATES[name]}).eval()
    inference.device, inference.autocast = "cpu", False
    inference.semantic_cfg = importlib.import_module("easydict").EasyDict(
        semantic_model=Wav2Vec2BertModel(Wav2Vec2BertConfig()).eval(),
        feature_extractor=SeamlessM4TFeatureExtractor(),
        output_idx=17,
        mean=torch.zeros(1024),
        std=torch.ones(1024),
    )
    quantizers = sizes["n_codebooks"] + 1

    def encode(audio_T: Tensor) -> Any:
        with patch("torch.autocast", lambda **_: nullcontext()):
            return inference.encode(audio_T[None, None], n_quantizers=quantizers)

    return encode


def _simwhisper(name: str) -> Callable[[Tensor], Any]:
    theirs = importlib.import_module("audiocodec.model")
    root = Path(cast(str, theirs.__file__)).parents[1]
    config = yaml.safe_load((root / "config" / "SimWhisperCodec.yaml").read_text())
    model = theirs.AudioCodec(config["generator_params"]).eval()
    return lambda audio_T: model.encode([audio_T], device=torch.device("cpu"))


def serve(side: str, name: str, threads: int) -> None:
    """Read a case per line, encode its clips, write the seconds that this took."""
    clock = time.perf_counter if threads > 1 else time.thread_time
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # for what a library prints
    torch.set_num_threads(threads)
    encode = {"ours": ours, "authors": authors}[side](name)
    rate = RATES[name]
    for line in sys.stdin:
        lengths = CASES[line.strip()]
        clips = [speech(int(length * rate), seed=i) for i, length in enumerate(lengths)]
        started = clock()
        with torch.inference_mode():
            encode(clips)
        print(clock() - started, file=answers)


class Process:
    """One side in a process of its own, which computes a case when it is asked to."""

    def __init__(self, side: str, options: argparse.Namespace) -> None:
        from speechmill.pipeline.run.ray_local import ALLOCATOR

        self.side = side
        environment = os.environ | ALLOCATOR
        python = sys.executable
        if side == "authors":
            environment["PYTHONPATH"] = str(options.checkout.resolve())
            python = options.python or python
        arguments = [options.codec, "--side", side, "--threads", str(options.threads)]
        self.child = subprocess.Popen(
            [python, "-m", "tests.bench.beside_authors", *arguments],
            cwd=_REPOSITORY,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def seconds(self, case: str) -> float:
        with suppress(BrokenPipeError):  # then there is no answer either
            print(case, file=cast(TextIO, self.child.stdin), flush=True)
        answer = cast(TextIO, self.child.stdout).readline()
        if not answer:
            raise SystemExit(f"the process of {self.side} ended; its error stands above")
        return float(answer)

    def cpu_seconds(self) -> float:
        """Return what the process has used so far."""
        after_name = Path(f"/proc/{self.child.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, after_name[11:13])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def processes(options: argparse.Namespace) -> Iterator[dict[str, Process]]:
    """Start both sides; end them afterwards."""
    sides = {side: Process(side, options) for side in SIDES}
    try:
        yield sides
    finally:
        for side in sides.values():
            side.child.communicate()


def compare(options: argparse.Namespace) -> Iterator[str]:
    """Yield a row of the table per case."""
    with processes(options) as sides:
        for case in options.cases:
            for side in sides.values():
                side.seconds(case)  # warms up
            deadline = time.monotonic() + options.patience
            rounds: list[Round] = []
            while len(rounds) < options.rounds or (
                time.monotonic() < deadline
                and sorted(rounds)[options.rounds - 1].others > _DISTURBED
            ):
                rounds.append(one_round(sides, case, len(rounds)))
            yield row(options.codec, case, sorted(rounds)[: options.rounds])


@dataclass(frozen=True, order=True)
class Round:
    """Seconds of each side, and the cores that others used meanwhile."""

    others: float
    ours: float
    authors: float


def one_round(sides: dict[str, Process], case: str, turn: int) -> Round:
    """Time each side once; even turns begin with the authors'."""

    def cpu_of_others() -> float:
        return busy_seconds() - sum(side.cpu_seconds() for side in sides.values())

    started, cpu = time.monotonic(), cpu_of_others()
    times = {side: sides[side].seconds(case) for side in (SIDES if turn % 2 else SIDES[::-1])}
    others = (cpu_of_others() - cpu) / (time.monotonic() - started)
    return Round(others, times["ours"], times["authors"])


def busy_seconds() -> float:
    """Return the CPU time that all processes, the kernel and other guests have used so far."""
    user, nice, system, _idle, _wait, *rest = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def row(name: str, case: str, rounds: list[Round]) -> str:
    """Return medians over the rounds; the ratio is that of each round, so slow minutes cancel."""
    ratios = sorted(one.authors / one.ours for one in rounds)
    audio = sum(CASES[case])
    ours_, theirs = (audio / median(getattr(one, side) for one in rounds) for side in SIDES)
    return (
        f"| {name} | {case} | {ours_:.2f} | {theirs:.2f} | **{median(ratios):.2f}** | "
        f"{ratios[0]:.2f} to {ratios[-1]:.2f} | {len(rounds)} | {rounds[-1].others:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codec", choices=RATES)
    parser.add_argument("--checkout", type=Path)
    parser.add_argument("--python", help="the interpreter for the authors' code")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--patience", type=float, default=0, help="seconds per case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--side", choices=SIDES, help="used by the processes that are started")
    options = parser.parse_args()
    if options.side:
        serve(options.side, options.codec, options.threads)
        return
    if options.checkout is None:
        parser.error("--checkout is missing: a folder with the authors' code")
    print(
        "| codec | clips | ours, x real time | authors' | ratio | spread | rounds | others' cores |"
        "\n|---|---|---|---|---|---|---|---|"
    )
    for line in compare(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
