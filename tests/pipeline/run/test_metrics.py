"""The metrics that Prometheus reads from the endpoint of a real node."""

import re
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import ray

from speechmill.codecs import codec_info
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.policy import RunSettings
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.run_log import RunLog, count_event
from speechmill.pipeline.run.runner import Totals, run
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import DecodeSettings
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput
from tests.corpus import clip, corpus, tar_bytes

_SERIES = re.compile(r"^(ray_speechmill_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
# One series of each kind of process: driver, worker, decoder.
PROCESSES = {("frames_total",), ("batches_total",), ("decode_busy_seconds_total",)}
OWN_LABELS = "end|error|reason|stage|operation|direction"


def scraped(node: dict) -> dict[tuple[str, str], float]:
    """Return the values by name and labels; a label names the process."""
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    series = _SERIES.findall(urlopen(url, timeout=60).read().decode())
    return {(name, labels): float(value) for name, labels, value in series}


def growth(
    before: dict[tuple[str, str], float], now: dict[tuple[str, str], float]
) -> dict[tuple[str, ...], float]:
    """By how much the values grew, by name and own labels, summed over the processes of now."""
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for (name, labels), value in now.items():
        own = re.findall(rf'(?:^|,)(?:{OWN_LABELS})="([^"]*)"', labels)
        increase = value - before.get((name, labels), 0.0)
        found[(name.removeprefix("ray_speechmill_"), *own)] += increase
    return found


def parts_bytes(folder: str | Path) -> int:
    return sum(path.stat().st_size for path in Path(folder, "out").rglob("*.parquet"))


def run_and_scrape(address: str, folder: str, num_bytes: int) -> tuple[Totals, dict[Any, float]]:
    """Tokenize the corpus; returns the totals, and by how much the metrics of a node grew.

    In a separate process, since the counters of a process keep their values between tests.
    """
    storage, output = Storage(), f"{folder}/out"
    options = {"name": "null", "device": "cpu", "precision": "fp32"}
    job = TokenizeJob(
        (CodecOutput(output, codec_info("null"), options),), storage, DecodeSettings()
    )
    log, totals = RunLog(output, storage, ""), Totals()

    def on_event(event):
        totals.add(event)
        log.record_event(event)
        count_event(event)

    def complete(found):
        ended = found["shards_total", "committed"] + found["shards_total", "give up"]
        reported_all = found["storage_bytes_total", "in"] >= num_bytes
        reported_all &= found["storage_bytes_total", "out"] >= parts_bytes(folder)
        return ended == 4 and reported_all and all(found[name] for name in PROCESSES)

    with RayPool(job, WorkerSettings(num_gpus=0), RaySettings(address=address)) as pool:
        head = address.partition(":")[0]  # others may be about to leave
        [node] = [node for node in ray.nodes() if node["NodeManagerAddress"] == head]
        before = scraped(node)
        shards = list_shards([f"{folder}/in"], storage)
        run(shards, pool, RunSettings(max_attempts=1), on_event)
        deadline = time.monotonic() + 60  # each process reports every half second
        while time.monotonic() < deadline:
            found = growth(before, scraped(node))
            if complete(found):
                break
            time.sleep(0.2)
    return totals, found


def test_metrics_show_what_a_run_did(tmp_path, storage, cluster):
    for name, data in corpus(2, 3).items():
        storage.put(f"{tmp_path}/in/{name}", data)
    whole = tar_bytes([("a.flac", clip(0.5)), ("bad.flac", b"junk")])
    storage.put(f"{tmp_path}/in/bad.tar", whole)
    storage.put(f"{tmp_path}/in/cut.tar", whole[:700])
    tars = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        totals, found = process.submit(
            run_and_scrape, cluster.address, str(tmp_path), tars
        ).result()
    assert (totals.shards, totals.failed) == (3, 1)
    assert found["shards_total", "committed"] == 3
    assert found["shards_total", "give up"] == 1
    assert found["rejects_total", "UndecodableAudio"] == 1
    assert found["utterances_total",] == totals.rows == 7
    assert found["frames_total",] == totals.frames
    assert found["audio_seconds_total",] == pytest.approx(totals.audio_seconds)
    assert found["batch_audio_seconds_total",] == pytest.approx(totals.audio_seconds)
    assert found["batch_padded_seconds_total",] > found["batch_audio_seconds_total",]
    assert found["encode_busy_seconds_total",] > 0
    assert tars <= found["storage_bytes_total", "in"] < 2 * tars
    assert found["storage_bytes_total", "out"] >= parts_bytes(tmp_path)
    assert all(found["storage_requests_total", kind] for kind in ("list", "open", "read", "write"))
    assert sum(found["bottleneck", stage] for stage in ("encode", "decode", "storage")) == 1
