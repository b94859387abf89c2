"""Tokenizing and training through Ray, on tars of FLAC made from the sample speech."""

import io
import os
import shutil
import statistics
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import soundfile

from speechmill.codecs import codec_info
from speechmill.codecs.shapes import ShapeSettings
from speechmill.pipeline.metrics import BATCH_SECONDS, PADDED_SECONDS
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.ray_local import ALLOCATOR
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.runner import Totals, run
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import BatchSettings
from speechmill.pipeline.tokenize.canary import reference_codes
from speechmill.pipeline.tokenize.decode import DecodeSettings, decode_shard
from speechmill.pipeline.tokenize.writer import CodecOutput
from tests.gpu.encoder_alone import seconds_of_encoding
from tests.gpu.inputs import arguments_of, sample_speech
from tests.gpu.jobs import CountedJob, counted
from tests.gpu.kit import DEVICE, ROOT, attempt, emit, seconds_left, sized

RATE = 16_000  # Hz
CPUS = os.cpu_count() or 2
# A cluster to join, if one runs already; otherwise each measurement starts a local one.
CLUSTER = RaySettings(address=os.environ.get("RAY_ADDRESS"), num_cpus=CPUS)
FEED_CASES = sized(  # codec, precision, seconds of a batch
    (
        ("null", "fp32", 160.0),
        ("focalcodec-50hz", "bf16", 160.0),
        ("simwhisper-16k", "bf16", 160.0),
        ("focalcodec-50hz", "bf16", 640.0),
        ("focalcodec-50hz", "tf32", 160.0),
    ),
    (("focalcodec-50hz", "fp32", 40.0),),
)
LONGEST = sized(320.0, 16.0)  # s, of a clip
ALONE_SHARDS, ALONE_ROUNDS = sized((8, 6), (1, 1))  # of encoding from memory


def feed() -> None:
    """Tokenize with the null codec, which is the ceiling of the feed, and with real codecs."""
    os.environ.update(ALLOCATOR)
    let_ray_see_the_gpu()
    with tempfile.TemporaryDirectory() as root:
        os.environ["SPEECHMILL_CACHE"] = f"{root}/cache"  # of the canary's reference
        corpus = Path(root) / "corpus"
        corpus.mkdir()
        started = time.perf_counter()
        audio = make_tars(corpus, *sized((12, CPUS, 8), (0.1, 2, 2)))
        made = round(time.perf_counter() - started, 1)
        emit(step="feed", what="corpus", hours=round(audio / 3600, 2), made_in_s=made)
        shards = list_shards([str(p) for p in sorted(corpus.glob("*.tar"))], Storage())
        for name, precision, seconds in FEED_CASES:
            if seconds_left() < 12:
                emit(step="feed", codec=name, skipped="no time left")
                continue
            with attempt("feed", codec=name, precision=precision, batch_s=seconds):
                used = shards if name == "null" else shards[: len(shards) // 2]
                measure_feed(name, precision, seconds, used, Path(root))


def measure_feed(
    name: str, precision: str, seconds: float, shards: Sequence[Shard], root: Path
) -> None:
    """Tokenize the shards with one worker, in batches of the shapes for `seconds`, with a canary.

    Before the clock starts, an eighth of the shards lets the worker capture its graphs.
    """
    job = tokenize_job(name, precision, seconds, root)
    workers = WorkerSettings(num_gpus=sized(1, 0), count=1, max_attempts=1, buffer_mb=2048.0)
    totals, counts = Totals(), Path(job.counts)

    def count(event: Any) -> None:
        if event.error:
            raise event.error
        totals.add(event)

    with RayPool(job, workers, CLUSTER) as pool:
        started = time.perf_counter()
        pool.wait(60)
        ready = time.perf_counter() - started
        run(shards[:: sized(8, 2)], pool, workers, lambda event: None)
        counts.write_text("")
        with gpu_utilisation() as busy:
            started = time.perf_counter()
            run(shards, pool, workers, count)
            took = time.perf_counter() - started
    recorded = counted(counts)
    padded = recorded[PADDED_SECONDS.name]
    facts = {"step": "feed", "codec": name, "precision": precision, "batch_s": seconds}
    x_real_time = totals.audio_seconds / took
    emit(
        **facts,
        hours=round(totals.audio_seconds / 3600, 2),
        seconds=round(took, 2),
        x_real_time=round(x_real_time),
        ready_s=round(ready, 1),
        encode_s=round(totals.encode_seconds, 2),
        starved_s=round(totals.starved_seconds, 2),
        decode_s=round(totals.decode_seconds, 1),
        decode_cpu_s=round(totals.decode_cpu_seconds, 1),
        rows=totals.rows,
        padding=round(1 - recorded[BATCH_SECONDS.name] / padded, 4),
        gpu_busy=round(statistics.mean(busy), 1) if busy else None,
    )
    if name != "null" and seconds_left() > 12:
        alone = speed_alone(job, shards)
        ratio = x_real_time / alone
        emit(**facts, what="encoder alone", x_real_time=round(alone), kept=round(ratio, 3))


def speed_alone(job: CountedJob, shards: Sequence[Shard]) -> float:
    """Return x real time of the same encoder in this process, with clips out of memory."""
    [output] = job.outputs
    decoded = [
        list(decode_shard(shard, Storage(), job.decode, [output.codec]))
        for shard in shards[:: max(1, len(shards) // ALONE_SHARDS)]
    ]
    samples = sum(int(b.num_samples_B.sum()) for each in decoded for b in each[:-1])
    took = seconds_of_encoding(decoded, output, ALONE_ROUNDS)
    return samples / output.codec.sample_rate / took


def tokenize_job(name: str, precision: str, seconds: float, root: Path) -> CountedJob:
    """Return the job as `speechmill tokenize` makes it for a GPU."""
    arguments = {"name": "null"} if name == "null" else arguments_of(name)
    identity = {k: v for k, v in arguments.items() if k in ("checkpoint", "config")}
    info = codec_info(arguments["name"], **identity)
    options = {**arguments, "device": DEVICE, "precision": precision}
    shapes = ShapeSettings(seconds=seconds, longest_seconds=LONGEST)
    output = f"{root}/{name}-{precision}-{seconds:g}"
    batch = BatchSettings(seconds=seconds, window_seconds=max(1280.0, 4 * seconds))
    return CountedJob(
        (CodecOutput(output, info, options, reference_codes(info, options), shapes),),
        Storage(),
        DecodeSettings(batch=batch, longest_clips=(LONGEST,)),
        f"{output}-counts.txt",
    )


@contextmanager
def gpu_utilisation() -> Iterator[list[float]]:
    """Fill the list, at the end of the block, with the percentages that nvidia-smi saw in it."""
    percentages: list[float] = []
    if DEVICE != "cuda":
        yield percentages
        return
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    process = subprocess.Popen([*query, "-lms", "300"], stdout=subprocess.PIPE, text=True)
    try:
        yield percentages
    finally:
        process.terminate()
        percentages += [float(v) for v in process.communicate()[0].split() if v.isdigit()]


def let_ray_see_the_gpu() -> None:
    """Ray counts GPUs through NVML; a machine without it would have none."""
    if DEVICE == "cuda" and not CLUSTER.address:
        init: Callable[..., Any] = ray.init
        ray.init = lambda *args, **kwargs: init(*args, **{"num_gpus": 1, **kwargs})


def make_tars(folder: Path, minutes: float, tars: int, copies: int) -> float:
    """Write tars of FLAC clips of 3 to 16 s, each `copies` times; return the seconds of audio."""
    speech_T = np.concatenate(list(sample_speech(RATE)))
    with ThreadPoolExecutor(CPUS) as threads:  # libsndfile releases the interpreter's lock
        seconds = threads.map(
            lambda number: make_tar(folder, number, speech_T, minutes * 60), range(tars)
        )
    for path in sorted(folder.glob("feed-*.tar")):
        for copy in range(1, copies):
            shutil.copy(path, folder / f"{path.stem}-copy{copy}.tar")
    return sum(seconds) * copies


def make_tar(folder: Path, number: int, speech_T: np.ndarray, wanted: float) -> float:
    random = np.random.default_rng(number)
    total, count = 0.0, 0
    with tarfile.open(folder / f"feed-{number:04d}.tar", "w") as tar:
        while total < wanted:
            size = int(random.uniform(3, 16) * RATE)
            start = random.integers(len(speech_T) - size)
            clip_T = speech_T[start : start + size] + 0.003 * random.standard_normal(size)
            sink = io.BytesIO()
            soundfile.write(sink, clip_T, RATE, format="FLAC")
            member = tarfile.TarInfo(f"{number:04d}-{count:06d}.flac")
            member.size = len(sink.getvalue())
            tar.addfile(member, io.BytesIO(sink.getvalue()))
            total, count = total + size / RATE, count + 1
    return total


def ray_train() -> None:
    """Run `speechmill train` through Ray Train twice: NCCL, the queue, checkpoints, resuming.

    A dry run trains in this process, because tests/jobs/training trains on Ray.
    """
    let_ray_see_the_gpu()
    with tempfile.TemporaryDirectory() as root:
        corpus = Path(root) / "corpus"
        corpus.mkdir()
        make_tars(corpus, sized(2, 0.1), 2, 1)
        for _ in range(sized(2, 1)):  # the second run finds all steps done
            with attempt("raytrain"):
                train_once(corpus, Path(root) / "run")
            if seconds_left() < 20:
                break


def train_once(corpus: Path, output: Path) -> None:
    from rich.console import Console

    from speechmill.jobs.commands.train import train_codec
    from speechmill.jobs.config import load_config
    from speechmill.jobs.training.config import TrainConfig
    from speechmill.jobs.training.display import TrainDisplay

    settings = {
        "shards": f"[{corpus}/]",
        "output": output,
        "workers": f"{{num_gpus: {sized(1, 0)}, count: {sized(1, 0)}, max_failures: 0}}",
        "checkpoint.every": sized(10, 1),
        "log.every": sized(5, 1),
        "precision": sized("bf16", "fp32"),
        "ray.num_cpus": CPUS,
        "ray.address": CLUSTER.address or "null",
        "data.batch_size": sized(4, 2),
        "data.crop_seconds": sized(1.0, 0.5),
        "data.shuffle_buffer": sized(20, 2),
        "phases.quantize.warmup": sized(2, 1),
        "phases.quantize.steps": sized(30, 2),
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    config = load_config(TrainConfig, ROOT / "configs/train/finetune.yaml", overrides)
    started = time.perf_counter()
    train_codec(config, TrainDisplay(Console(quiet=True)))
    seconds = round(time.perf_counter() - started, 1)
    emit(step="raytrain", seconds=seconds, files=sorted(p.name for p in output.iterdir()))
