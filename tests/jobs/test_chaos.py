"""Everything at once: killed actors, killed nodes, a killed store and a bad network.

`SPEECHMILL_CHAOS_SHARDS=1000 SPEECHMILL_CHAOS_SEED=7` makes it longer, and another one.
"""

import os
import random
import subprocess
import sys
import time
from dataclasses import replace

import pyarrow.dataset
import pytest
from rich.console import Console

from speechmill.jobs.commands.tokenize import tokenize_shards
from speechmill.jobs.display import ShardDisplay
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.storage import Storage
from tests.conftest import FRAGILE
from tests.corpus import corpus
from tests.fault_proxy import FaultProxy
from tests.jobs.conftest import command, contents
from tests.ray_processes import find, kill

SHARDS = int(os.environ.get("SPEECHMILL_CHAOS_SHARDS", "30"))
SEED = int(os.environ.get("SPEECHMILL_CHAOS_SEED", "0"))
CLIPS = 3


class Chaos:
    """Kills something every few seconds: a process, a node, the store."""

    def __init__(self, cluster, rgw):
        self.chance = random.Random(SEED)
        self.cluster = cluster
        self.rgw = rgw
        self.nodes = [self._join(), self._join()]

    def strike(self) -> None:
        blows = [self.kill_worker, self.kill_decoder, self.kill_node, self.kill_store]
        self.chance.choices(blows, weights=[4, 3, 2, 1])[0]()

    def kill_worker(self) -> None:
        self._kill("ray::Worker")

    def kill_decoder(self) -> None:
        self._kill("ray::decode_shard")

    def kill_node(self) -> None:
        node = self.nodes.pop(0)
        self.cluster.remove_node(node, allow_graceful=False)
        self.nodes.append(self._join())

    def kill_store(self) -> None:
        self.rgw.kill()
        self.rgw.restart()

    def end(self) -> None:
        for node in self.nodes:
            self.cluster.remove_node(node)

    def _join(self):
        address = f"127.0.0.{self.chance.randrange(3, 250)}"
        resources = {"num_cpus": 1, "object_store_memory": 2**28}
        return self.cluster.add_node(node_ip_address=address, **resources)

    def _kill(self, title: str) -> None:
        if found := find(self.cluster, title):
            kill(self.chance.choice(found))


@pytest.fixture
def chaos(cluster, rgw):
    chaos = Chaos(cluster, rgw)
    yield chaos
    chaos.end()


@pytest.fixture
def corpus_url(rgw, bucket):
    storage = Storage({"s3": rgw.storage_options})
    for name, data in corpus(SHARDS, CLIPS, seconds=0.5).items():
        storage.put(f"{bucket}/in/{name}", data)
    return f"{bucket}/in/"


def settings(shards: str, output: str, **overrides: str) -> list[str]:
    chosen = {
        "shards": f"[{shards}]",
        "output": output,
        "codec.name": "fragile",
        "codec.options": "{seconds: 0.4}",
        "workers.num_gpus": "0",
        "workers.max_attempts": "10",
    }
    return [f"{key}={value}" for key, value in (chosen | overrides).items()]


def calm_run(rgw, shards: str, output: str, monkeypatch) -> None:
    monkeypatch.syspath_prepend(FRAGILE)
    config = TokenizeConfig([shards], output, storage={"s3": rgw.storage_options})
    config.codec.name, config.workers.num_gpus, config.workers.count = "fragile", 0, 0
    tokenize_shards(config, ShardDisplay(Console(quiet=True)))


@pytest.mark.timeout(900 + 20 * SHARDS)
def test_a_run_with_many_failures_gives_the_dataset_of_an_undisturbed_one(
    cluster, rgw, bucket, corpus_url, chaos, tmp_path, monkeypatch
):
    (tmp_path / "chaos.yaml").write_text("{}")
    path = os.pathsep.join([str(FRAGILE), *filter(None, sys.path)])
    with FaultProxy(rgw.endpoint_url, rate=0.05, seed=SEED) as proxy:
        environment = replace(rgw, endpoint_url=proxy.endpoint_url).environment
        worker = {"PYTHONPATH": path, **environment}
        overrides = {
            "ray.address": cluster.address,
            "ray.env": "{" + ", ".join(f"{k}: '{v}'" for k, v in worker.items()) + "}",
            "workers.count": "2",
        }
        arguments = settings(corpus_url, f"{bucket}/chaos", **overrides)
        process = subprocess.Popen(
            command("tokenize", str(tmp_path / "chaos.yaml"), *arguments),
            env=os.environ | worker,
            stdout=(tmp_path / "log").open("w"),
            stderr=subprocess.STDOUT,
        )
        for _ in range(SHARDS // 3):
            time.sleep(chaos.chance.uniform(1.0, 4.0))
            chaos.strike()
        process.wait()
    assert process.returncode == 0, (tmp_path / "log").read_text()
    rgw.restart()
    calm_run(rgw, corpus_url, f"{bucket}/calm", monkeypatch)
    storage = Storage({"s3": rgw.storage_options})
    assert contents(storage, f"{bucket}/chaos") == contents(storage, f"{bucket}/calm")
    source = f"{bucket}/chaos/tokens".removeprefix("s3://")
    dataset = pyarrow.dataset.dataset(source, filesystem=rgw.filesystem(), format="parquet")
    rows = dataset.to_table(columns=["shard", "index"]).to_pylist()
    assert len(dataset.files) == SHARDS
    assert len({(row["shard"], row["index"]) for row in rows}) == len(rows) == SHARDS * CLIPS
