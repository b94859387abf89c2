"""What `plan` says beside what the run then takes, on real speech.

    python -m tests.bench.plan [FOLDER] [--minutes 40] [--codecs null pure-16k-small]
        [--probe 20s] [--rounds 3]

FOLDER holds audio; by default it is ../shared/data/clean beside the checkout, or the sample speech.
Each row is one quantity: what was planned with its interval of 90 %, what the run took, and the
ratio, as medians over rounds in which plan and run take turns. Wall time and CPU time are compared
apart, since other work on the machine changes the first most. The CPU time of a run is that of its
later shards: the first ones pay for imports, which a plan counts as the start. Both commands are
processes of their own, as a user starts them. The requests are those of a run on an S3 store in
this process (moto).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from typer.testing import CliRunner

from speechmill.jobs.cli import app
from speechmill.pipeline.storage import Storage
from tests.bench.listing import count_requests, store
from tests.conftest import REAL_SPEECH, REPOSITORY

POOLS = {"in process": ("workers.count=0", "workers.num_gpus=0"), "Ray": ("workers.num_gpus=0",)}
BYTES_PER_SECOND = 16_000  # of FLAC at 16 kHz, about
FIRST = 4  # shards: as many as the worker of this machine reads at a time, and one more
OPERATIONS = {
    "get": "GetObject",
    "head": "HeadObject",
    "list": "ListObjectsV2",
    "put": "PutObject",
}


@dataclass
class Compared:
    """A planned number, its interval and the number of the run."""

    name: str
    planned: float
    low: float | None
    high: float | None
    run: float

    @property
    def ratio(self) -> float:
        return self.planned / self.run if self.run else float("nan")


def line(rounds: Sequence[Compared]) -> str:
    """The medians of the rounds, and the least and the largest ratio."""
    ends = [[one.low, one.high] for one in rounds if one.low is not None and one.high is not None]
    interval = "[{:,.4g}, {:,.4g}]".format(*map(median, zip(*ends, strict=True))) if ends else ""
    planned, run = median(one.planned for one in rounds), median(one.run for one in rounds)
    ratios = sorted(one.ratio for one in rounds)
    spread = f" [{ratios[0]:.3f}, {ratios[-1]:.3f}]" if len(rounds) > 1 else ""
    return (
        f"  {rounds[0].name:22} {planned:12,.4g} {interval:24} {run:12,.4g} "
        f"{median(ratios):8.3f}{spread}"
    )


def speechmill(*arguments: object) -> str:
    command = [sys.executable, "-m", "speechmill.jobs.cli", *map(str, arguments)]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


def pack(source: Path, target: Path, minutes: float, shard_mb: float) -> None:
    """Pack a part of a folder of audio, evenly spaced over its files."""
    files = sorted(path for path in source.rglob("*") if path.suffix in (".flac", ".wav", ".ogg"))
    size = sum(path.stat().st_size for path in files)
    step = max(1, round(size / (minutes * 60 * BYTES_PER_SECOND)))
    manifest = target / "manifest.jsonl"
    target.mkdir(parents=True)
    lines = [json.dumps({"path": str(path)}) + "\n" for path in files[::step]]
    manifest.write_text("".join(lines))
    speechmill("pack", manifest, target / "shards", f"root={source}", f"shard_mb={shard_mb}")


def config(folder: Path, shards: object, output: object, codec: str) -> Path:
    path = folder / f"{codec}.yaml"
    path.write_text(f"shards: ['{shards}']\noutput: '{output}'\ncodec: {{name: '{codec}'}}\n")
    return path


def compare(path: Path, output: Path, pool: tuple[str, ...], probe: str) -> Iterator[Compared]:
    """Plan, run, and yield what both say."""
    options = (path, f"output={output}", *pool)
    [plan] = json.loads(speechmill("plan", *options, "--probe", probe, "--json"))
    speechmill("tokenize", *options)
    summary = json.loads(next(output.glob("runs/*/summary.json")).read_text())
    estimate, run, wall = plan["estimate"], plan["run"], plan["run"]["scales"][0]
    parts = [*output.glob("tokens/*.parquet"), *output.glob("rejects/*.parquet")]
    audio = summary["audio_seconds"] / 3600
    yield _of(estimate, "audio_hours", audio)
    yield _of(estimate, "utterances", summary["rows"])
    yield _of(estimate, "bytes_out", sum(part.stat().st_size for part in parts))
    yield _of(wall, "wall_seconds", summary["seconds"])
    [log] = output.glob("runs/*/events.jsonl")
    events = [json.loads(line) for line in log.read_text().splitlines()]
    shards = [event for event in events if event["event"] == "committed"]
    yield _of(run, "encode_hours", _of_later_shards(shards, "encode_seconds") / 3600)
    yield _of(run, "decode_core_hours", _of_later_shards(shards, "decode_cpu_seconds") / 3600)


def _of_later_shards(shards: list[dict[str, Any]], name: str) -> float:
    """Return the sum of a time, as if the first shards had taken no longer than the others."""
    later = shards[FIRST:] or shards
    audio = sum(shard["audio_seconds"] for shard in shards)
    later_audio = sum(shard["audio_seconds"] for shard in later)
    return sum(shard[name] for shard in later) * audio / later_audio


def _of(said: dict[str, Any], name: str, run: float) -> Compared:
    return Compared(name, said[name], said[f"{name}_low"], said[f"{name}_high"], run)


def requests(folder: Path, shards: Path) -> Iterator[Compared]:
    """Yield the requests that a plan counts and those that its run makes."""
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    with store(None) as root:
        for tar in sorted(shards.glob("*.tar")):
            Storage().put(f"{root}/in/{tar.name}", tar.read_bytes())
        path = config(folder, f"{root}/in/", f"{root}/out", "null")
        options = [str(path), *POOLS["in process"]]
        done = CliRunner().invoke(app, ["plan", *options, "--probe", "5s", "--json"])
        planned = json.loads(done.stdout)[0]["run"]["requests"]
        calls = count_requests()
        CliRunner().invoke(app, ["tokenize", *options])
        for name, operation in OPERATIONS.items():
            yield Compared(f"{name} requests", planned[name], None, None, calls[operation])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = REAL_SPEECH if REAL_SPEECH.is_dir() else REPOSITORY / "samples"
    parser.add_argument("folder", type=Path, nargs="?", default=default)
    parser.add_argument("--minutes", type=float, default=40.0)
    parser.add_argument("--shard-mb", type=float, default=2.0)
    parser.add_argument("--codecs", nargs="*", default=["null", "pure-16k-small"])
    parser.add_argument("--pools", nargs="*", default=list(POOLS), choices=list(POOLS))
    parser.add_argument("--probe", default="20s")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        source = arguments.folder.resolve()
        pack(source, folder / "corpus", arguments.minutes, arguments.shard_mb)
        shards = folder / "corpus" / "shards"
        title = f"{'':24} {'planned':>12} {'interval of 90 %':24} {'run':>12} {'ratio':>8}"
        for codec in arguments.codecs:
            for number, pool in enumerate(arguments.pools):
                print(f"{codec}, {pool}\n{title}")
                path = config(folder, shards, folder / "unused", codec)
                outputs = [folder / f"{codec}-{number}-{r}" for r in range(arguments.rounds)]
                rounds = [compare(path, o, POOLS[pool], arguments.probe) for o in outputs]
                for same in zip(*rounds, strict=True):
                    print(line(same), flush=True)
        print(f"null, in process, on S3\n{title}")
        for each in requests(folder, shards):
            print(line([each]))


if __name__ == "__main__":
    main()
