"""What Prometheus would read, from the endpoint of a real node."""

import re
import time
from collections import defaultdict
from collections.abc import Callable
from urllib.request import urlopen

import pytest
import ray

from pipeline import metrics
from pipeline.policy import RunSettings
from pipeline.run.job import RaySettings, TokenizeJob, WorkerSettings
from pipeline.run.ray_pool import RayPool
from pipeline.run.run_log import RunLog
from pipeline.run.runner import Totals, run
from pipeline.shards.shard import list_shards
from pipeline.tokens.decode import DecodeSettings
from speech_codecs import codec_info
from tests.corpus import clip, corpus, tar_bytes

_SERIES = re.compile(r"^(ray_speechmill_\w+)\{(.*)\} (\S+)$", re.MULTILINE)
# One series of each kind of process: driver, worker, decoder.
PROCESSES = {("frames_total",), ("batches_total",), ("decode_busy_seconds_total",)}
OWN_LABELS = "end|error|reason|stage|operation|direction"


def scraped(node: dict) -> dict[tuple[str, ...], float]:
    """Values by name and own labels, summed over processes."""
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    found: dict[tuple[str, ...], float] = defaultdict(float)
    for name, labels, value in _SERIES.findall(urlopen(url, timeout=10).read().decode()):
        own = re.findall(rf'(?:^|,)(?:{OWN_LABELS})="([^"]*)"', labels)
        found[(name.removeprefix("ray_speechmill_"), *own)] += float(value)
    return found


def shards_ended(found: dict[tuple[str, ...], float]) -> float:
    return found["shards_total", "committed"] + found["shards_total", "give up"]


def scraped_when(
    complete: Callable[[dict[tuple[str, ...], float]], bool], node: dict
) -> dict[tuple[str, ...], float]:
    """Processes report every half second, each at its own time."""
    deadline = time.monotonic() + 60
    while not complete(found := scraped(node)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


@pytest.fixture
def run_of_three_shards(tmp_path, storage, cluster):
    """Two good shards with a reject, one cut; gives the totals and, while it stands, the node."""
    for name, data in corpus(2, 3).items():
        storage.put(f"{tmp_path}/in/{name}", data)
    whole = tar_bytes([("a.flac", clip(0.5)), ("bad.flac", b"junk")])
    storage.put(f"{tmp_path}/in/bad.tar", whole)
    storage.put(f"{tmp_path}/in/cut.tar", whole[:700])
    options = {"name": "null", "device": "cpu", "precision": "fp32"}
    output = str(tmp_path / "out")
    job = TokenizeJob(output, codec_info("null"), options, storage, DecodeSettings())
    log, totals = RunLog(output, storage, ""), Totals()

    def on_event(event):
        totals.add(event)
        log.record_event(event)

    settings, address = WorkerSettings(num_gpus=0), RaySettings(address=cluster.address)
    with RayPool(job, settings, address) as pool:
        run(
            list_shards([str(tmp_path / "in")], storage),
            pool,
            RunSettings(max_attempts=1),
            on_event,
        )
        yield totals, ray.nodes()[0]
    metrics.send_to(None)


def test_an_operator_sees_what_a_run_did(run_of_three_shards, tmp_path):
    totals, node = run_of_three_shards
    assert (totals.shards, totals.failed) == (3, 1)
    tars = sum(path.stat().st_size for path in (tmp_path / "in").iterdir())

    def complete(found):
        read_all = found["storage_bytes_total", "in"] >= tars
        return read_all and shards_ended(found) == 4 and found.keys() >= PROCESSES

    found = scraped_when(complete, node)
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
    parts = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.parquet"))
    assert found["storage_bytes_total", "out"] >= parts
    assert all(found["storage_requests_total", kind] for kind in ("list", "open", "read", "write"))
    assert sum(found["bottleneck", stage] for stage in ("encode", "decode", "storage")) == 1
