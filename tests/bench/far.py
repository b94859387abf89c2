"""What the distance to the store costs: shards on the local disk against S3 at 0, 30 and 80 ms.

    python -m tests.bench.far [--hours 3] [--tars 16] [--cpus 1] [--rounds 3]

A real store (Ceph RGW, which infra/s3/rgw.sh installs) serves the tars through `far_store`: each
request is delayed, and each connection carries 60 MB/s. The null codec computes almost nothing, so
this is the hardest case. Store and proxy need CPUs too, and on this machine they take them from the
run: with `--cpus 1`, the run decodes on one core and leaves them another. All runs of a round read
the same bytes; their tokens are compared. `--tars 2 --hours 6` makes shards of 250 MB.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.compute as pc
import pyarrow.parquet as pq
import s3fs
import xxhash

from speechmill.codecs import codec_info
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.ray_local import ALLOCATOR
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.runner import run
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import DecodeSettings
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput
from tests.bench.feed import make_corpus, peak_memory

RGW = Path(__file__).parents[2] / "infra/s3/rgw.sh"
RATE = 60e6  # bytes per s of a connection
BUCKET = "s3://far"


@contextmanager
def rgw() -> Iterator[dict[str, str]]:
    """A store, as the variables that reach it."""
    with tempfile.TemporaryDirectory(prefix="rgw-", dir="/tmp") as folder:
        try:
            started = subprocess.run(
                [RGW, "start", folder], stdout=subprocess.PIPE, text=True, check=True
            )
            yield dict(each.split("=", 1) for each in shlex.split(started.stdout)[1:])
        finally:
            subprocess.run([RGW, "stop", folder], check=True)


@contextmanager
def far_store(endpoint_url: str, delay: float) -> Iterator[str]:
    """The endpoint of a proxy to the store."""
    near = urlsplit(endpoint_url)
    arguments = [str(near.hostname), str(near.port), str(delay), str(RATE)]
    command = [sys.executable, "-m", "tests.bench.far_store", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as proxy:
        assert proxy.stdout
        yield f"http://127.0.0.1:{int(proxy.stdout.readline())}"
        proxy.communicate()


def tokenize(source: str, storage: Storage, output: Path, cpus: int) -> float:
    """Seconds of a run after its workers are warm."""
    shards = list_shards([source], storage)
    options = {"name": "null", "device": "cpu", "precision": "fp32"}
    codecs = (CodecOutput(str(output), codec_info("null"), options),)
    job = TokenizeJob(codecs, storage, DecodeSettings())
    settings = WorkerSettings(num_gpus=0, threads=1, max_attempts=1)
    with RayPool(job, settings, RaySettings(num_cpus=cpus)) as pool:
        pool.wait()
        run(shards[: 4 * cpus], pool, settings, _fail)
        started = time.perf_counter()
        run(shards, pool, settings, _fail)
        return time.perf_counter() - started


def _fail(event) -> None:
    if event.error:
        raise event.error


def digest(output: Path) -> str:
    """A digest of all tokens with their keys, in the order of the parts."""
    found = xxhash.xxh3_128()
    names = {path.name.rpartition("-")[0]: path for path in output.glob("tokens/*.parquet")}
    for _, path in sorted(names.items()):
        table = pq.read_table(path, columns=["key", "start", "codes"]).combine_chunks()
        found.update(str(table.select(["key", "start"]).to_pydict()).encode())
        found.update(pc.list_flatten(table["codes"]).to_numpy())
    return found.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--tars", type=int, default=16)
    parser.add_argument("--cpus", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--delays", type=float, nargs="+", default=[0, 30, 80], help="ms")
    arguments = parser.parse_args()
    os.environ.update(ALLOCATOR)
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    with tempfile.TemporaryDirectory() as root, rgw() as variables:
        corpus = Path(root) / "corpus"
        corpus.mkdir()
        seconds = make_corpus(corpus, arguments.hours, arguments.tars)
        tars = sorted(corpus.glob("*.tar"))
        print(f"{len(tars)} tars of {tars[0].stat().st_size / 1e6:.0f} MB, {seconds / 3600:.1f} h")
        os.environ.update(variables)
        near = Storage()
        s3fs.S3FileSystem().mkdir(BUCKET)
        for tar in tars:
            near.put(f"{BUCKET}/{tar.name}", tar.read_bytes())
        speeds: dict[str, list[float]] = {}
        digests = set()
        for number in range(arguments.rounds):
            for delay in (None, *arguments.delays):
                name = "local" if delay is None else f"S3, {delay:g} ms"
                output = Path(root) / f"{name} {number}"
                with peak_memory() as peak:
                    if delay is None:
                        taken = tokenize(str(corpus), Storage(), output, arguments.cpus)
                    else:
                        with far_store(variables["AWS_ENDPOINT_URL"], delay / 1e3) as url:
                            storage = Storage({"s3": {"endpoint_url": url}})
                            taken = tokenize(BUCKET, storage, output, arguments.cpus)
                digests.add(digest(output))
                speeds.setdefault(name, []).append(seconds / taken)
                print(
                    f"round {number + 1}  {name:10}  {seconds / taken:8,.0f} x real time"
                    f"  {taken:5.1f} s  peak memory {peak[0]:,.0f} MB",
                    flush=True,
                )
        assert len(digests) == 1, "the tokens differ"
        for name in list(speeds)[1:]:
            ratios = sorted(a / b for a, b in zip(speeds[name], speeds["local"], strict=True))
            median = statistics.median(ratios)
            print(f"{name} / local: {median:.2f}  [{ratios[0]:.2f}, {ratios[-1]:.2f}]")


if __name__ == "__main__":
    main()
