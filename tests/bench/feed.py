"""How fast shards are read, decoded, sent to an actor and written: ours, Ray Data, bare loops.

    python -m tests.bench.feed [--hours 3] [--tars 16] [--rounds 3]

The null codec computes almost nothing, so this times everything around a codec. Each round runs all
of them on the same tars with two CPUs; processes are started and warmed up before. The clock starts
when the actor that encodes is ready, before a shard is read, and stops when the last part is
written. One bare loop decodes with soundfile, as most projects do and as Ray Data does here; the
other with the decoder that Speechmill uses for 16-bit FLAC.
"""

import argparse
import io
import json
import multiprocessing
import os
import statistics
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import miniaudio
import numpy as np
import psutil
import ray
import soundfile
import soxr

from speechmill.codecs import codec_info, load_codec
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.ray_local import ALLOCATOR
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.runner import run
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import DecodeSettings
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput
from tests.corpus import tar_bytes

SAMPLES = Path(__file__).parents[2] / "samples"
RATE = 16_000
CPUS = 2


def make_corpus(folder: Path, hours: float, tars: int) -> float:
    """Cut the sample speech into clips of 3 to 16 s; return the seconds of audio written."""
    clips = json.loads("[" + ",".join((SAMPLES / "manifest.jsonl").read_text().splitlines()) + "]")
    speech_T = np.concatenate([_speech(SAMPLES / clip["path"]) for clip in clips])
    random = np.random.default_rng(0)
    total = 0.0
    for number in range(tars):
        members: list[tuple[str, bytes]] = []
        seconds = 0.0
        while seconds < hours * 3600 / tars:
            size = int(random.uniform(3, 16) * RATE)
            start = random.integers(len(speech_T) - size)
            sink = io.BytesIO()
            clip_T = speech_T[start : start + size] + 0.003 * random.standard_normal(size)
            soundfile.write(sink, clip_T, RATE, format="FLAC")
            members.append((f"{number:04d}-{len(members):06d}.flac", sink.getvalue()))
            seconds += size / RATE
        (folder / f"feed-{number:04d}.tar").write_bytes(tar_bytes(members))
        total += seconds
    return total


def _speech(path: Path) -> Any:
    audio_TC, rate = soundfile.read(path, always_2d=True)
    return soxr.resample(audio_TC[:, 0], rate, RATE)


def bare_loop(paths: list[Path], output: Path, decode: Callable[[bytes], Any]) -> float:
    """Decode in two processes and keep nothing: the most that these CPUs can do."""
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(CPUS + 1)
    arguments = [(paths[i::CPUS], barrier, decode) for i in range(CPUS)]
    processes = [context.Process(target=_decode_all, args=each) for each in arguments]
    for process in processes:
        process.start()
    barrier.wait()
    started = time.perf_counter()
    for process in processes:
        process.join()
    return time.perf_counter() - started


def _decode_all(paths: list[Path], barrier: Any, decode: Callable[[bytes], Any]) -> None:
    barrier.wait()
    for path in paths:
        with tarfile.open(path, mode="r|") as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file
                decode(file.read())


def _soundfile(data: bytes) -> Any:
    return soundfile.read(io.BytesIO(data), dtype="int16")[0]


def speechmill(paths: list[Path], output: Path) -> float:
    storage = Storage()
    shards = list_shards([str(path) for path in paths], storage)
    options = {"name": "null", "device": "cpu", "precision": "fp32"}
    job = TokenizeJob(
        (CodecOutput(str(output), codec_info("null"), options),), storage, DecodeSettings()
    )
    settings = WorkerSettings(num_gpus=0, threads=1, max_attempts=1)
    with RayPool(job, settings, RaySettings(num_cpus=CPUS)) as pool:
        pool.wait()
        run(shards[:2], pool, settings, _fail)
        started = time.perf_counter()
        run(shards, pool, settings, _fail)
        return time.perf_counter() - started


def _fail(event: Any) -> None:
    if event.error:
        raise event.error


def ray_data(paths: list[Path], output: Path) -> float:
    ray.init(
        "local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, logging_level="error"
    )
    context = ray.data.DataContext.get_current()
    context.wait_for_min_actors_s = 120
    context.enable_progress_bars = False
    try:
        _ray_data_run(paths[:2], output / "warm")
        return _ray_data_run(paths, output / "all")
    finally:
        ray.shutdown()


def _ray_data_run(paths: list[Path], output: Path) -> float:
    output.mkdir(parents=True)
    ready = output / "ready"
    dataset = ray.data.read_webdataset([str(path) for path in paths], decoder=None)
    dataset = dataset.map(_decode_row)
    dataset = dataset.map_batches(
        _Encoder,
        fn_constructor_args=(ready,),
        batch_size=16,
        num_cpus=0,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    dataset.write_parquet(str(output / "parts"))
    return time.time() - ready.stat().st_mtime


def _decode_row(row: dict[str, Any]) -> dict[str, Any]:
    return {"key": row["__key__"], "audio": _soundfile(row["flac"])}


class _Encoder:
    def __init__(self, ready: Path) -> None:
        self.codec = load_codec("null")
        ready.touch()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import torch

        clips = batch["audio"]
        num_samples_B = np.array([len(clip) for clip in clips])
        audio_BT = np.zeros((len(clips), num_samples_B.max()), np.float32)
        for row, clip in zip(audio_BT, clips, strict=True):
            np.divide(clip, 32768, out=row[: len(clip)])
        codes_BKF = self.codec.encode(torch.from_numpy(audio_BT), torch.from_numpy(num_samples_B))
        frames_B = [self.codec.info.num_frames(int(n)) for n in num_samples_B]
        rows = zip(codes_BKF, frames_B, strict=True)
        codes = [codes_KF[:, :n].T.reshape(-1).numpy().astype(np.uint16) for codes_KF, n in rows]
        return {"key": batch["key"], "codes": codes, "num_frames": frames_B}


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Fill a list with the largest proportional set size, MB, of this process and its children."""
    peak = [0.0]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            peak[0] = max(peak[0], _tree_mb())

    thread = threading.Thread(target=watch)
    thread.start()
    yield peak
    stop.set()
    thread.join()


def _tree_mb() -> float:
    total = 0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += process.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=float, default=3.0)
    parser.add_argument("--tars", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    os.environ.update(ALLOCATOR)  # for all of them; otherwise page faults take most of the time
    systems: dict[str, Callable[[list[Path], Path], float]] = {
        "bare loop": partial(bare_loop, decode=_soundfile),
        "bare dr_flac": partial(bare_loop, decode=miniaudio.flac_read_s16),
        "speechmill": speechmill,
        "ray data": ray_data,
    }
    speeds: dict[str, list[float]] = {name: [] for name in systems}
    with tempfile.TemporaryDirectory() as root:
        corpus = Path(root) / "corpus"
        corpus.mkdir()
        seconds = make_corpus(corpus, arguments.hours, arguments.tars)
        paths = sorted(corpus.glob("*.tar"))
        for number in range(arguments.rounds):
            for name, system in systems.items():
                speeds[name].append(seconds / system(paths, Path(root) / f"{name} {number}"))
                print(f"round {number + 1}  {name:12}  {speeds[name][-1]:8,.0f} x real time")
        for name in (name for name in systems if name != "speechmill"):
            pairs = zip(speeds["speechmill"], speeds[name], strict=True)
            ratios = sorted(ours / theirs for ours, theirs in pairs)
            median = statistics.median(ratios)
            print(f"speechmill / {name}: {median:.2f}  [{ratios[0]:.2f}, {ratios[-1]:.2f}]")
        for part in (paths[: len(paths) // 4], paths):
            with peak_memory() as peak:
                speechmill(part, Path(root) / f"memory {len(part)}")
            print(f"peak memory of the whole run, {len(part)} shards: {peak[0]:,.0f} MB")


if __name__ == "__main__":
    main()
