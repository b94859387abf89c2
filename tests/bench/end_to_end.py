"""How much of a codec's own speed the whole pipeline keeps, from shards to parts.

    python -m tests.bench.end_to_end [--codec pure-16k-small] [--device cpu] [--minutes 20]
    python -m tests.bench.end_to_end --codec focalcodec-50hz --checkpoint untrained --device cuda \
        --precision bf16 --minutes 600 --tars 64

Each round encodes the same clips twice: from memory, in a process that does nothing else; and
through the pipeline, from tars to Parquet on Ray. Both load and warm up the codec before the clock
starts, and use the same allocator and number of threads. On a GPU both encode batches of the fixed
shapes, with the padding that they need, and every shape has its CUDA graph before the clock starts.
The goal is a ratio of 0.95.
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

from speechmill.codecs import codec_card, codec_info
from speechmill.codecs.shapes import ShapeSettings
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.ray_local import ALLOCATOR
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.runner import Event, Totals, run
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import DecodeSettings, decode_shard
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput
from tests.bench.feed import make_corpus
from tests.gpu.encoder_alone import seconds_of_encoding

CPUS = os.cpu_count() or 1
RAY_NICENESS = 15  # of Ray's workers; the process in memory gets the same, for a fair ratio


def ready_clips(sources: list[str], output: CodecOutput, threads: int, results: Connection) -> None:
    """Decode first, then send the seconds of encoding alone; runs in its own process."""
    import torch

    os.nice(RAY_NICENESS - os.nice(0))
    torch.set_num_threads(threads)
    settings = decode_settings(output)
    shards = list_shards(sources, Storage())
    decoded = [list(decode_shard(each, Storage(), settings, [output.codec])) for each in shards]
    results.send(seconds_of_encoding(decoded, output))


def codec_output(options: dict[str, Any], output: Path) -> CodecOutput:
    """Return the codec and its batches as `speechmill tokenize` chooses them, without a canary."""
    identity = {k: v for k, v in options.items() if k in ("checkpoint", "config")}
    codec = codec_info(options["name"], **identity)
    longest = codec_card(options["name"]).longest_clip(options["device"].partition(":")[0])
    shapes = None if options["device"] == "cpu" else ShapeSettings(longest_seconds=longest)
    return CodecOutput(str(output), codec, options, batch=shapes)


def decode_settings(output: CodecOutput) -> DecodeSettings:
    """Return the default settings; clips longer than the longest batch are rejects."""
    longest = (output.batch.longest_seconds,) if output.batch else ()
    return DecodeSettings(longest_clips=longest)


def in_memory(sources: list[str], output: CodecOutput, threads: int) -> float:
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=ready_clips, args=(sources, output, threads, there))
    process.start()
    there.close()  # so that the wait ends if the process fails
    seconds: float = here.recv()
    process.join()
    return seconds


def through_the_pipeline(sources: list[str], output: CodecOutput, threads: int) -> float:
    storage = Storage()
    shards = list_shards(sources, storage)
    job = TokenizeJob((output,), storage, decode_settings(output))
    on_gpu = output.codec_options["device"].startswith("cuda")
    settings = WorkerSettings(num_gpus=int(on_gpu), count=1, threads=threads)
    totals = Totals()
    with RayPool(job, settings, RaySettings(num_cpus=CPUS)) as pool:
        pool.wait()
        for _ in range(2 if output.batch else 1):
            run(shards if output.batch else shards[:1], pool, settings, _fail)
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
            output = codec_output(options, Path(root) / f"{number}")
            alone = in_memory([str(corpus)], output, arguments.threads)
            whole = through_the_pipeline([str(corpus)], output, arguments.threads)
            ratios.append(alone / whole)
            print(
                f"round {number + 1}  in memory {audio / alone:8,.1f} x real time  "
                f"pipeline {audio / whole:8,.1f}  ratio {ratios[-1]:.3f}"
            )
    print(f"ratio {statistics.median(ratios):.3f}  [{min(ratios):.3f}, {max(ratios):.3f}]")


if __name__ == "__main__":
    main()
