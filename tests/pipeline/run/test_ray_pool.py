from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import ray

from speechmill.codecs import CheckpointError, codec_info, load_codec
from speechmill.pipeline.audio.filters import FilterSettings
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.errors import InputError, WorkerLost
from speechmill.pipeline.run.job import RaySettings, WorkerSettings
from speechmill.pipeline.run.policy import RunSettings
from speechmill.pipeline.run.ray_pool import RayPool
from speechmill.pipeline.run.runner import Totals, run
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.decode import DecodeSettings
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput
from tests.corpus import clip, tar_bytes, write_corpus
from tests.one_shard import tokenize_one
from tests.ray_processes import kill_when_it_appears


@pytest.fixture
def job(tmp_path, storage):
    options = {"name": "pure-16k-small", "device": "cpu", "precision": "fp32"}
    info = codec_info("pure-16k-small")
    return TokenizeJob(
        (CodecOutput(str(tmp_path / "out"), info, options),), storage, DecodeSettings()
    )


@pytest.fixture
def shards(tmp_path, storage):
    write_corpus(tmp_path / "in", num_shards=4, clips_per_shard=3, seconds=2.0)
    return list_shards([str(tmp_path / "in")], storage)


@pytest.fixture
def pool(job, cluster):
    def start(job=job, **settings):
        settings = WorkerSettings(num_gpus=0, **settings)
        return RayPool(job, settings, RaySettings(address=cluster.address))

    return start


def parts(tmp_path):
    return len(list((tmp_path / "out" / "tokens").glob("*.parquet")))


def test_a_worker_that_dies_is_restarted_and_its_shards_are_done(pool, cluster, shards, tmp_path):
    totals = Totals()
    with pool(count=1, shards_in_flight=2) as workers:
        workers.wait()
        workers.submit(shards[0])
        kill_when_it_appears(cluster, "ray::WorkerProcess.run")
        [result] = workers.wait()
        assert isinstance(result.error, WorkerLost)
        run(shards, workers, RunSettings(), totals.add)
    assert (totals.shards, parts(tmp_path)) == (4, 4)


def test_a_decode_process_that_dies_costs_an_attempt_not_the_run(pool, cluster, shards, tmp_path):
    totals = Totals()
    with pool(count=1, shards_in_flight=1) as workers:
        workers.wait()
        workers.submit(shards[0])
        kill_when_it_appears(cluster, "ray::decode_shard")
        [result] = workers.wait()
        assert type(result.error).__name__ == "StreamBroken"
        run(shards, workers, RunSettings(), totals.add)
    assert (totals.shards, totals.failed, parts(tmp_path)) == (4, 0, 4)


def test_a_recording_that_kills_its_process_costs_only_itself(pool, job, storage, tmp_path):
    members = [(f"{n}.flac", clip(1.0, n)) for n in range(3)]
    bad = [("crash.flac", clip(0.1)), ("endless.flac", clip(0.2))]
    storage.put(f"{tmp_path}/calm/a.tar", tar_bytes(members))
    storage.put(f"{tmp_path}/harm/a.tar", tar_bytes([*members, *bad]))
    decode = DecodeSettings(
        limits=Limits(decode_seconds=2.5),
        filters=FilterSettings(quality="tests.quality_scores:harmful"),
    )
    [calm_shard], [harm_shard] = (
        list_shards([f"{tmp_path}/{name}/a.tar"], storage) for name in ("calm", "harm")
    )
    tokenize_one(calm_shard, f"{tmp_path}/calm", storage, load_codec("pure-16k-small"), decode)
    totals = Totals()
    with pool(replace(job, decode=decode), count=1) as workers:
        run([harm_shard], workers, RunSettings(), totals.add)
    assert (totals.retries, totals.rejects) == (1, {"DecodeCrashed": 1, "DecodeTimeout": 1})
    calm, harm = (pq.read_table(f"{tmp_path}/{name}/tokens") for name in ("calm", "out"))
    assert calm.drop(["shard"]).equals(harm.drop(["shard"]))


def wait_for_a_worker(workers):
    while not workers.free():
        workers.wait()


def test_a_codec_that_no_worker_can_load_ends_the_run_with_its_error(pool, job):
    [output] = job.outputs
    missing = output.codec_options | {"checkpoint": "none.safetensors"}
    workers = pool(replace(job, outputs=(replace(output, codec_options=missing),)), count=2)
    with workers, pytest.raises(CheckpointError, match=r"none\.safetensors"):
        wait_for_a_worker(workers)


def test_a_worker_with_another_revision_than_the_driver_is_refused(pool, job):
    [output] = job.outputs
    codec = replace(output.codec, revision="0123456789abcdef")
    other = replace(job, outputs=(replace(output, codec=codec),))
    with pool(other) as workers, pytest.raises(CheckpointError, match="same checkpoint"):
        workers.wait()


def test_a_cluster_that_does_not_answer_is_named_with_the_cure(job, monkeypatch):
    monkeypatch.setattr("speechmill.pipeline.run.ray_address._CONNECT_SECONDS", 1.0)
    with pytest.raises(InputError, match=r"127\.0\.0\.2:9.*ray\.address=null"):
        RayPool(job, WorkerSettings(num_gpus=0), RaySettings(address="127.0.0.2:9"))


def test_more_gpus_than_the_cluster_has_are_refused(job, cluster):
    with pytest.raises(InputError, match=r"workers\.num_gpus=0"):
        RayPool(job, WorkerSettings(num_gpus=1), RaySettings(address=cluster.address))
    ray.shutdown()
