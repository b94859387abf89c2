"""SIGTERM to the driver, or a lost cluster: finished parts stay, and another run resumes."""

import json
import os
import signal
import subprocess

import pyarrow.parquet as pq
import pytest
from ray.cluster_utils import Cluster

from tests.corpus import write_corpus
from tests.jobs.conftest import command, invoke, wait_until


def parts(output):
    return sorted((output / "tokens").glob("*.parquet"))


@pytest.fixture
def begun(tmp_path, config):
    """Start a run of eight parts and wait for the first: its process, configuration and output."""
    write_corpus(tmp_path / "in", num_shards=8, clips_per_shard=4, seconds=2.0)
    processes = []

    def start(*overrides, environment=None):
        path = config(tmp_path / "in", tmp_path / "out", codec="pure-16k-small")
        arguments = ["tokenize", str(path), "workers.shards_in_flight=1", *overrides]
        log = (tmp_path / "log").open("w")
        processes.append(
            subprocess.Popen(
                command(*arguments), env=os.environ | (environment or {}), stderr=log, stdout=log
            )
        )
        wait_until(lambda: parts(tmp_path / "out"), processes[-1])
        return processes[-1], path, tmp_path / "out"

    yield start
    for process in processes:
        process.kill()


def test_sigterm_lets_the_shards_in_flight_finish_and_the_run_can_be_resumed(begun):
    process, path, output = begun()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 130
    [run] = (output / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert summary["shards"] == len(parts(output)) < 8
    assert invoke("tokenize", path, "workers.count=0").exit_code == 0
    assert len(pq.read_table(output / "tokens")) == 32


def test_a_driver_whose_head_node_is_lost_ends_and_another_cluster_resumes(begun):
    head = {"num_cpus": 2, "object_store_memory": 2**28, "include_dashboard": False}
    lost = Cluster(initialize_head=True, head_node_args=head | {"node_ip_address": "127.0.0.2"})
    environment = {"RAY_gcs_rpc_server_reconnect_timeout_s": "3"}
    process, path, output = begun(f"ray.address={lost.address}", environment=environment)
    lost.remove_node(lost.head_node, allow_graceful=False)
    assert process.wait() != 0
    assert invoke("tokenize", path).exit_code == 0
    assert len(pq.read_table(output / "tokens")) == 32
