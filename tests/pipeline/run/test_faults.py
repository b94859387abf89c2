"""Workers, nodes and devices that fail while a run goes on; real Ray nodes on this machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from speechmill.codecs import codec_info, load_codec
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.runner import Totals, run
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.decode import DecodeSettings
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput
from tests.conftest import FRAGILE
from tests.corpus import write_corpus
from tests.one_shard import tokenize_one
from tests.ray_processes import find, kill

NODE = {"object_store_memory": 2**28, "num_cpus": 2}


@pytest.fixture
def shards(tmp_path, storage):
    write_corpus(tmp_path / "in", num_shards=4, clips_per_shard=3, seconds=1.0)
    return list_shards([str(tmp_path / "in")], storage)


@pytest.fixture
def fragile(tmp_path, storage, monkeypatch):
    """Start a pool of fragile codecs: `pool(workers={...}, **faults of the codec)`."""
    monkeypatch.syspath_prepend(FRAGILE)
    worker_events = []

    def start(cluster, workers=None, **options):
        options = {"name": "fragile", "device": "cpu", "precision": "fp32", **options}
        job = TokenizeJob(
            (CodecOutput(str(tmp_path / "out"), codec_info("fragile"), options),),
            storage,
            DecodeSettings(),
        )
        settings = WorkerSettings(**({"num_gpus": 0, "shards_in_flight": 2} | (workers or {})))
        path = os.pathsep.join([str(FRAGILE), *sys.path])
        ray = RaySettings(address=cluster.address, env={"PYTHONPATH": path})
        pool = RayPool(
            job,
            settings,
            ray,
            on_worker_event=lambda kind, **facts: worker_events.append((kind, facts)),
        )
        pool.settings = settings
        return pool

    start.worker_events = worker_events
    return start


def finish(shards, pool, **arguments):
    totals, events = Totals(), []
    run(shards, pool, pool.settings, lambda e: (totals.add(e), events.append(e)), **arguments)
    return totals, events


def assert_calm(tmp_path, storage, shards):
    """The parts are byte for byte those of a run without faults."""
    sys.path.insert(0, str(FRAGILE))
    codec = load_codec("fragile")
    for shard in shards:
        tokenize_one(shard, str(tmp_path / "calm"), storage, codec)
    for calm in sorted((tmp_path / "calm" / "tokens").iterdir()):
        assert (tmp_path / "out" / "tokens" / calm.name).read_bytes() == calm.read_bytes()


def test_a_full_device_splits_batches_and_changes_no_byte(
    cluster, fragile, shards, tmp_path, storage
):
    with fragile(cluster, room=30_000) as pool:
        totals, _ = finish(shards, pool)
    assert (totals.shards, totals.retries) == (4, 0)
    assert_calm(tmp_path, storage, shards)


@pytest.mark.parametrize("fault", ["broken", "die", "hang"])
def test_a_worker_that_breaks_dies_or_hangs_is_restarted(
    cluster, fragile, shards, tmp_path, storage, fault
):
    once = str(tmp_path / "once")
    stall = {"stall_seconds": 15.0 if fault == "hang" else 900.0}
    with fragile(cluster, stall, fault=fault, once=once) as pool:
        totals, events = finish(shards, pool)
    assert (totals.shards, totals.failed) == (4, 0)
    [first, *_] = [event for event in events if event.kind == "retry"]
    expected = {"broken": "DeviceBroken", "die": "WorkerLost", "hang": "WorkerLost"}
    assert type(first.error).__name__ == expected[fault]
    assert fault != "hang" or "no progress" in str(first.error)
    assert first.reason
    assert_calm(tmp_path, storage, shards)


def test_a_worker_that_gets_sigterm_finishes_its_shards_and_takes_no_other(
    cluster, fragile, shards
):
    with fragile(cluster, {"shards_in_flight": 1}, seconds=1.0) as pool:
        timer = threading.Timer(2.0, terminate_workers, [cluster])
        pool.wait()
        timer.start()
        totals, events = finish(shards, pool)
    assert totals.shards == 4
    errors = {type(event.error).__name__ for event in events if event.error}
    assert errors <= {"NodeLost"}
    assert [kind for kind, _ in fragile.worker_events].count("worker ready") >= 2


def terminate_workers(cluster) -> None:
    for process in find(cluster, "ray::Worker"):
        kill(process, signal.SIGTERM)


@pytest.fixture
def gpu_node(cluster):
    """Add nodes that have one GPU each, or claim to; they are removed after the test."""
    nodes = []

    def add():
        address = f"127.0.0.{len(nodes) + 3}"
        nodes.append(cluster.add_node(num_gpus=1, node_ip_address=address, **NODE))
        return nodes[-1]

    yield add
    for node in nodes:
        if node in cluster.list_all_nodes():
            cluster.remove_node(node)


def test_a_node_that_dies_costs_no_attempt_and_its_shards_go_to_another(
    cluster, gpu_node, fragile, shards, tmp_path, storage
):
    # Start the pool before the nodes, or the driver might connect through the one that is killed.
    with (
        fragile(cluster, {"num_gpus": 1, "count": 1}, seconds=1.5) as pool,
        ThreadPoolExecutor(1) as thread,
    ):
        nodes = {node.node_id: node for node in (gpu_node(), gpu_node())}
        pool.wait()
        [(_, ready)] = fragile.worker_events
        running = thread.submit(finish, shards, pool)
        time.sleep(1.0)
        cluster.remove_node(nodes[ready["node"]], allow_graceful=False)
        totals, events = running.result()
    assert (totals.shards, totals.failed) == (4, 0)
    assert {type(e.error).__name__ for e in events if e.error} == {"NodeLost"}
    assert_calm(tmp_path, storage, shards)


def test_a_node_that_joins_late_gets_a_worker(cluster, gpu_node, fragile):
    gpu_node()
    with fragile(cluster, {"num_gpus": 1, "shards_in_flight": 1}) as pool:
        pool.wait()
        gpu_node()
        pool.wait()
        assert pool.free() == 2
    assert ("workers added", {"count": 1}) in fragile.worker_events


def test_a_worker_without_a_free_gpu_delays_nothing(cluster, gpu_node, fragile, shards):
    gpu_node()
    with fragile(cluster, {"num_gpus": 1, "count": 3}) as pool:
        pool.wait()  # for the first worker; the others never start
        assert finish(shards, pool)[0].shards == 4
    assert [kind for kind, _ in fragile.worker_events] == ["worker ready"]


def test_a_node_that_is_drained_gets_no_more_shards(cluster, gpu_node, fragile, shards):
    drained, other = gpu_node(), gpu_node()
    with fragile(cluster, {"num_gpus": 1, "shards_in_flight": 1}, seconds=0.5) as pool:
        while pool.free() < 2:
            pool.wait()
        announce_preemption(cluster, drained)
        while pool.free() == 2:
            pool.wait(0.5)
        assert pool.free() == 1
        assert ("node draining", {"node": drained.node_id}) in fragile.worker_events
        assert finish(shards, pool)[0].shards == 4
    assert other in cluster.list_all_nodes()


def test_a_drained_node_ends_by_itself_once_its_shards_are_done(cluster, gpu_node, fragile, shards):
    drained, _ = gpu_node(), gpu_node()
    [raylet] = [info.process for info in drained.all_processes["raylet"]]
    with fragile(cluster, {"num_gpus": 1, "shards_in_flight": 1}, seconds=0.5) as pool:
        while pool.free() < 2:
            pool.wait()
        timer = threading.Timer(0.5, announce_preemption, [cluster, drained])
        timer.start()
        totals, events = finish(shards, pool)
        timer.join()
        while raylet.poll() is None:
            pool.wait(0.5)
    assert (totals.shards, [event for event in events if event.error]) == (4, [])


def announce_preemption(cluster, node) -> None:
    """Drain a node, as the autoscaler does when the cloud wants a machine back."""
    arguments = {
        "--address": cluster.address,
        "--node-id": node.node_id,
        "--reason": "DRAIN_NODE_REASON_PREEMPTION",
        "--reason-message": "spot",
        "--deadline-remaining-seconds": "3600",
    }
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
    subprocess.run([*command, *sum(arguments.items(), ())], check=True, capture_output=True)
