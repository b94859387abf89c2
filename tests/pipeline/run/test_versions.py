"""Nodes that a run must not use: their versions differ, or torch finds no GPU; real Ray nodes.

On the odd node, Python finds another version of speechmill first, of which no module is left.
"""

from importlib.metadata import version

import pytest

from speechmill.codecs import codec_info
from speechmill.pipeline.errors import InputError, NodeUnfit
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.ray_nodes import compare_nodes
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.runner import EventKind, Totals, run
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.decode import DecodeSettings
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput
from speechmill.pipeline.versions import (
    decoding_versions,
    differences,
    lacks_only_torch,
    token_versions,
)
from tests.corpus import write_corpus
from tests.jobs.conftest import invoke, write_config
from tests.one_shard import tokenize_one
from tests.other_version import pretend_version

ADDRESS = "127.0.0.9"
NODE = {"object_store_memory": 2**28, "num_gpus": 1}


@pytest.fixture(scope="module")
def odd_node(cluster, tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    pretend_version(folder, "speechmill", "0.0.9")
    (folder / "speechmill").mkdir()
    (folder / "speechmill" / "__init__.py").touch()
    environment = {"PYTHONPATH": str(folder)}
    node = cluster.add_node(node_ip_address=ADDRESS, num_cpus=3, env_vars=environment, **NODE)
    yield node
    cluster.remove_node(node)


@pytest.fixture
def shards(tmp_path, storage):
    write_corpus(tmp_path / "in", num_shards=6, clips_per_shard=2, seconds=1.0)
    return list_shards([str(tmp_path / "in")], storage)


@pytest.fixture
def pool(cluster, tmp_path, storage):
    options = {"name": "null", "device": "cpu", "precision": "fp32"}
    output = CodecOutput(str(tmp_path / "out"), codec_info("null"), options)
    job = TokenizeJob((output,), storage, DecodeSettings())
    events = []

    def start(**settings):
        workers = WorkerSettings(**({"num_gpus": 0} | settings))
        cluster_settings = RaySettings(address=cluster.address)
        return RayPool(
            job,
            workers,
            cluster_settings,
            on_worker_event=lambda kind, **facts: events.append((kind, facts)),
        )

    start.events = events
    return start


def parts(output):
    return {path.name: path.read_bytes() for path in output.glob("tokens/[!.]*")}


def test_a_run_uses_no_node_of_another_version_and_names_it(
    cluster, odd_node, pool, shards, tmp_path, storage, null_codec
):
    totals = Totals()
    with pool(count=2, shards_in_flight=3, decode_cpus=2) as workers:
        run(shards, workers, WorkerSettings(), totals.add)
        while not (refused := [e for e in pool.events if e[0] == EventKind.NODE_REFUSED]):
            workers.wait(0.2)
        [node] = compare_nodes(timeout=100)
    assert (node.address, list(node.differences)) == (ADDRESS, ["speechmill"])
    assert (totals.shards, totals.retries, totals.failed) == (6, 0, 0)
    dropped = [facts for kind, facts in pool.events if kind == EventKind.WORKER_DROPPED]
    message = f"node {ADDRESS} has speechmill 0.0.9 instead of {version('speechmill')}; install"
    for facts in (refused[0][1], *dropped):
        assert (facts["node"], facts["message"].startswith(message)) == (odd_node.node_id, True)
    ready = {facts["node"] for kind, facts in pool.events if kind == EventKind.WORKER_READY}
    assert ready == {cluster.head_node.node_id}
    for shard in shards:
        tokenize_one(shard, str(tmp_path / "calm"), storage, null_codec)
    assert parts(tmp_path / "out") == parts(tmp_path / "calm")


def test_a_run_without_another_node_ends_with_the_versions(odd_node, pool, shards):
    with (
        pool(num_gpus=1) as workers,
        pytest.raises(NodeUnfit, match=r"speechmill 0\.0\.9 instead"),
    ):
        workers.wait()
    assert [kind for kind, _ in pool.events] == [EventKind.WORKER_DROPPED]
    with (
        pool(count=1, decode_cpus=3) as workers,  # which only the odd node has
        pytest.raises(NodeUnfit, match=r"speechmill 0\.0\.9 instead"),
    ):
        run(shards, workers, WorkerSettings(), Totals().add)


def test_a_gpu_that_torch_cannot_use_is_named_and_the_run_ends(cluster, odd_node, shards, tmp_path):
    """Ray believes what it is told; this machine may well have no GPU."""
    path = write_config(tmp_path, cluster, tmp_path / "in", tmp_path / "out", "pure-16k-small")
    environment = {"CUDA_VISIBLE_DEVICES": ""}
    node = cluster.add_node(node_ip_address="127.0.0.10", num_cpus=1, env_vars=environment, **NODE)
    done = invoke("tokenize", path, "workers.num_gpus=1")
    cluster.remove_node(node)
    said = " ".join(done.stderr.split())
    assert done.exit_code == 2, done.output
    assert "error: torch " in said
    assert "cannot use a GPU; look at nvidia-smi there" in said


def test_settings_that_no_node_can_meet_are_refused_with_numbers(cluster, shards, tmp_path):
    path = write_config(tmp_path, cluster, tmp_path / "in", tmp_path / "out")
    done = invoke("tokenize", path, "workers.decode_cpus=64")
    assert done.exit_code == 2
    assert "wants 64 CPUs, and no node of the cluster has more than" in done.stderr
    done = invoke("tokenize", path, "workers.num_gpus=64", "codec.device=cpu")
    assert done.exit_code == 2
    assert "a worker wants 64; set workers.num_gpus=0" in " ".join(done.stderr.split())


def test_another_version_of_ray_is_named_in_one_line(pool, monkeypatch):
    monkeypatch.setattr("ray.__version__", "1.2.3")
    with pytest.raises(InputError, match=r"has Ray \S+ and Python \S+, this process Ray 1\.2\.3"):
        pool()


def test_the_versions_of_other_builds_are_equal_and_others_differ(tmp_path, monkeypatch):
    wanted = token_versions(["no-such-package"])
    assert (differences(wanted), wanted["no-such-package"]) == ({}, None)
    torch = wanted["torch"].partition("+")[0]
    pretend_version(tmp_path, "torch", f"{torch}+rocm")
    monkeypatch.syspath_prepend(tmp_path)
    assert differences(wanted) == {}
    pretend_version(tmp_path, "soxr", "9.9.9")
    pretend_version(tmp_path, "no_such_package", "1.0")
    monkeypatch.syspath_prepend(tmp_path / "again")  # importlib.metadata lists a folder once
    (tmp_path / "again").symlink_to(tmp_path)
    assert differences(wanted) == {
        "soxr": ("9.9.9", wanted["soxr"]),
        "no-such-package": ("1.0", None),
    }


def test_a_node_without_torch_may_decode_unless_torch_resamples():
    wanted = {"torch": "2.14.1", "torchaudio": "2.11.0", "soxr": "1.0"}
    assert decoding_versions(wanted) == {"soxr": "1.0"}
    assert decoding_versions(wanted, ["torch", "torchaudio"]) == wanted
    assert lacks_only_torch({"torch": (None, "2.14.1")})
    assert not lacks_only_torch({"torch": ("2.13.0", "2.14.1")})
    assert not lacks_only_torch({"torch": (None, "2.14.1"), "soxr": ("0.9", "1.0")})
