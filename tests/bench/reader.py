"""How fast tokens are read for training: ours, HF datasets, MosaicML streaming, plain pyarrow.

    python -m tests.bench.reader [--megabytes 300] [--rounds 5]

All read the same utterances (8 codebooks of 1024 codes, 1 to 30 s at 50 Hz, random codes) from the
same Parquet files in the page cache, or from MDS shards of the same rows. They take turns, in one
process, and MosaicML in one of its own, because it needs other packages: they go to a temporary
environment, and if they cannot be installed its rows are left out. A pass ends when the last
utterance or sequence is there as tensors or arrays. CPU seconds are those of all threads; on a
machine with other work they say more than seconds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.dataset
import pyarrow.parquet as pq

from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.dataset.reader import TokenReader
from speechmill.pipeline.dataset.row_groups import list_row_groups
from speechmill.pipeline.dataset.templates import PatternEncoder
from tests.token_parts import make_token_dataset

COLUMNS = ["key", "text", "codes"]
CODEBOOKS, BYTES = 8, 2
ROWS_PER_PART = 400
FRAMES = (50, 1500)
LENGTH = 4096  # ids of a packed sequence
BUFFER = 4096  # rows of the shuffle, ours and that of HF; an epoch has many of them
NEEDED = ("mosaicml-streaming", "brotli", "python-snappy", "cramjam", "zstd", "catalogue")
MOSAIC = Path(__file__).parent / "reader_mosaic.py"

Cost = tuple[float, float]  # seconds and CPU seconds of a pass


def make_tokens(root: str, megabytes: float) -> TokenDataset:
    """Random codes of about so many MB as uint16."""
    random = np.random.default_rng(0)
    row_bytes = sum(FRAMES) / 2 * CODEBOOKS * BYTES
    parts = max(2, round(megabytes * 1e6 / row_bytes / ROWS_PER_PART))
    return make_token_dataset(
        root, [random.integers(*FRAMES, ROWS_PER_PART).tolist() for _ in range(parts)]
    )


def row_groups(files: list[str]) -> Iterable[Any]:
    """What every reader of Parquet must do: decompress and decode, and nothing else."""
    for file in map(pq.ParquetFile, files):
        for number in range(file.num_row_groups):
            yield file.read_row_group(number, COLUMNS)


def scanner(files: list[str]) -> Iterable[Any]:
    """The same on all cores at once, in any order."""
    return pyarrow.dataset.dataset(files).scanner(columns=COLUMNS).to_batches()


def hugging_face(files: list[str], form: str | None) -> Iterable[Any]:
    stream = datasets.load_dataset(
        "parquet", data_files=files, split="train", streaming=True, columns=COLUMNS
    )
    return stream.shuffle(seed=0, buffer_size=BUFFER).with_format(form)


def timed(items: Callable[[], Iterable[Any]]) -> Cost:
    started, cpu = time.perf_counter(), time.process_time()
    for _ in items():
        pass
    return time.perf_counter() - started, time.process_time() - cpu


def contenders(tokens: TokenDataset, folder: Path) -> dict[str, Callable[[], Cost]]:
    """A pass of each, by name."""
    files = sorted(tokens.part_url(name) for name in tokens.parts())
    encoder = PatternEncoder(make_pattern("flatten", (1024,) * CODEBOOKS))
    passes: dict[str, Callable[[], Iterable[Any]]] = {
        "pyarrow, row group after row group": lambda: row_groups(files),
        "pyarrow scanner, all cores": lambda: scanner(files),
        "speechmill, utterances": lambda: TokenReader(tokens, shuffle_rows=BUFFER),
        f"speechmill, packed to {LENGTH}": lambda: TokenReader(
            tokens, encoder, LENGTH, shuffle_rows=BUFFER
        ),
        "HF streaming, numpy": lambda: hugging_face(files, "numpy"),
        "HF streaming, Python lists": lambda: hugging_face(files, None),
    }
    timed_passes = {name: lambda make=make: timed(make) for name, make in passes.items()}
    return timed_passes | mosaic(files, folder)


def mosaic(files: list[str], folder: Path) -> dict[str, Callable[[], Cost]]:
    """MosaicML streaming, in an environment that has our libraries below its own."""
    python = folder / "venv" / "bin" / "python"
    try:
        run(sys.executable, "-m", "venv", "--without-pip", folder / "venv")
        [site] = (folder / "venv").glob("lib/python*/site-packages")
        libraries = [entry for entry in sys.path if entry.endswith("site-packages")]
        (site / "libraries.pth").write_text("\n".join(libraries))
        pip = (sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps")
        # torchvision is only imported: any version that goes with this torch.
        run(*pip, *NEEDED, "torchvision")
        run(python, MOSAIC, "write", folder / "mds", *files)
    except subprocess.CalledProcessError as error:
        print(f"without MosaicML streaming: {error.stderr.strip().splitlines()[-1:]}")
        return {}
    return {
        "MosaicML streaming": lambda: tuple(
            json.loads(run(python, MOSAIC, "read", folder / "mds").splitlines()[-1])
        )
    }


def run(*command: object) -> str:
    arguments = [str(part) for part in command]
    return subprocess.run(arguments, capture_output=True, text=True, check=True).stdout


def show(costs: dict[str, list[Cost]], megabytes: float) -> None:
    """A table in Markdown: medians, and the ratios to ours of the same round."""
    print("\n| reader | MB/s | CPU s | our utterances are so many times as fast | in CPU s |")
    print("|---|---|---|---|---|")
    ours = costs["speechmill, utterances"]
    for name, own in costs.items():
        seconds, cpu = (statistics.median(cost[i] for cost in own) for i in (0, 1))
        ratios = [
            sorted(theirs[i] / mine[i] for theirs, mine in zip(own, ours, strict=True))
            for i in (0, 1)
        ]
        shown = [f"{statistics.median(r):.2f} [{r[0]:.2f}, {r[-1]:.2f}]" for r in ratios]
        print(f"| {name} | {megabytes / seconds:.0f} | {cpu:.2f} | {' | '.join(shown)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=float, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tokens = make_tokens(f"{folder}/tokens", arguments.megabytes)
        passes = contenders(tokens, Path(folder))
        costs: dict[str, list[Cost]] = {name: [] for name in passes}
        for number in range(arguments.rounds + 1):  # the first one fills caches, and is not counted
            for name, one_pass in passes.items():
                cost = one_pass()
                print(f"{number}  {name:36} {cost[0]:7.2f} s  {cost[1]:7.2f} CPU s", flush=True)
                if number:
                    costs[name].append(cost)
        frames = sum(group.frames for group in list_row_groups(tokens))
        megabytes = frames * CODEBOOKS * BYTES / 1e6
        names = ("pyarrow", "datasets", "torch")
        print(f"{megabytes:.0f} MB;", ", ".join(f"{name} {version(name)}" for name in names))
        show(costs, megabytes)


if __name__ == "__main__":
    main()
