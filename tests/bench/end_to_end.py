"""How much of a codec's own speed the whole pipeline keeps, from shards to parts.

    python -m tests.bench.end_to_end [--codec pure-16k-small] [--device cpu] [--minutes 20]

Each round encodes the same batches twice: from memory, in a process that does nothing else; and
through the pipeline, from tars to Parquet on Ray. Both load and warm up the codec before the clock
starts, and use the same allocator and number of threads. The goal is a ratio of 0.95.
"""

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from speechmill.codecs import codec_info
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.ray_cluster import ALLOCATOR
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.runner import Event, Totals, run
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import Batch
from speechmill.pipeline.tokenize.decode import DecodeSettings, decode_shard
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.schema import token_schema
from speechmill.pipeline.tokenize.writer import CodecOutput
from tests.bench.feed import make_corpus

CPUS = os.cpu_count() or 1
RAY_NICENESS = 15  # of Ray's workers; the process in memory gets the same, for a fair ratio


def ready_tensors(
    sources: list[str], options: dict[str, Any], threads: int, results: Connection
) -> None:
    """Decode first, then send the seconds of encoding alone; runs in its own process."""
    import torch

    from speechmill.codecs import load_codec
    from speechmill.pipeline.tokenize.encode import encode_batch

    os.nice(RAY_NICENESS - os.nice(0))
    torch.set_num_threads(threads)
    codec = load_codec(**options)
    shards = list_shards(sources, Storage())
    decoded = [decode_shard(each, Storage(), DecodeSettings(), [codec.info]) for each in shards]
    batches = [batch for stream in decoded for batch in stream if isinstance(batch, Batch)]
    schema = token_schema(codec.info.codebook_sizes)
    encode_batch(batches[0], codec, schema)
    started = time.perf_counter()
    for batch in batches:
        encode_batch(batch, codec, schema)
    results.send(time.perf_counter() - started)


def in_memory(sources: list[str], options: dict[str, Any], threads: int) -> float:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=ready_tensors, args=(sources, options, threads, there))
    process.start()
    there.close()  # so that the wait ends if the process fails
    seconds: float = here.recv()
    process.join()
    return seconds


def through_the_pipeline(
    sources: list[str], options: dict[str, Any], threads: int, output: Path
) -> float:
    storage = Storage()
    shards = list_shards(sources, storage)
    codec = codec_info(options["name"], checkpoint=options["checkpoint"])
    job = TokenizeJob((CodecOutput(str(output), codec, options),), storage, DecodeSettings())
    on_gpu = options["device"].startswith("cuda")
    settings = WorkerSettings(num_gpus=int(on_gpu), count=1, threads=threads)
    totals = Totals()
    with RayPool(job, settings, RaySettings(num_cpus=CPUS)) as pool:
        pool.wait()
        run(shards[:1], pool, settings, _fail)
        started = time.perf_counter()
        run(shards, pool, settings, lambda event: totals.add(_fail(event)))
        seconds = time.perf_counter() - started
    print(f"         the codec computed for {totals.encode_seconds:.2f} of {seconds:.2f} s, and ")
    print(f"         lacked audio for {totals.starved_seconds:.2f} s")
    return seconds


def _fail(event: Event) -> Event:
    if event.error:
        raise event.error
    return event


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codec", default="pure-16k-small")
    parser.add_argument("--checkpoint")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--tars", type=int, default=8)
    parser.add_argument("--threads", type=int, default=CPUS)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.update(ALLOCATOR)
    options = {
        "name": arguments.codec,
        "checkpoint": arguments.checkpoint,
        "device": arguments.device,
        "precision": arguments.precision,
    }
    ratios = []
    with tempfile.TemporaryDirectory() as root:
        corpus = Path(root) / "corpus"
        corpus.mkdir()
        audio = make_corpus(corpus, arguments.minutes / 60, arguments.tars)
        for number in range(arguments.rounds):
            alone = in_memory([str(corpus)], options, arguments.threads)
            output = Path(root) / f"{number}"
            whole = through_the_pipeline([str(corpus)], options, arguments.threads, output)
            ratios.append(alone / whole)
            print(
                f"round {number + 1}  in memory {audio / alone:8,.1f} x real time  "
                f"pipeline {audio / whole:8,.1f}  ratio {ratios[-1]:.3f}"
            )
    print(f"ratio {statistics.median(ratios):.3f}  [{min(ratios):.3f}, {max(ratios):.3f}]")


if __name__ == "__main__":
    main()
