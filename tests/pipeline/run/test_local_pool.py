"""Runs in this process, without Ray."""

import json
import subprocess
import sys

import pytest
import torch

from speechmill.codecs import codec_info
from speechmill.pipeline.audio.filters import FilterSettings
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.errors import DeviceBroken, InputError
from speechmill.pipeline.run.job import WorkerSettings
from speechmill.pipeline.run.local_pool import LocalPool
from speechmill.pipeline.run.runner import EventKind, run
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.decode import DecodeSettings
from speechmill.pipeline.tokenize.encode import Tokenizer
from speechmill.pipeline.tokenize.job import TokenizeJob
from speechmill.pipeline.tokenize.writer import CodecOutput
from tests.corpus import clip, tar_bytes, write_corpus
from tests.quality_scores import HARMFUL_SECONDS

OPTIONS = {"name": "null", "device": "cpu", "precision": "fp32"}
ONE = WorkerSettings(count=0, num_gpus=0)


@pytest.fixture
def finish(tmp_path, storage):
    """Tokenize the tars in `in` with the null codec; returns the events."""

    def finish(settings=None):
        shards = list_shards([f"{tmp_path}/in"], storage)
        decode = settings or DecodeSettings()
        job = TokenizeJob(
            (CodecOutput(f"{tmp_path}/out", codec_info("null"), OPTIONS),), storage, decode
        )
        events = []
        with LocalPool(job, ONE) as pool:
            run(shards, pool, ONE, events.append)
        return events

    return finish


def test_recordings_that_end_their_process_cost_only_themselves(tmp_path, storage, finish):
    members = [("good.flac", clip(1.0))]
    members += [
        (f"bad{number}.flac", clip(seconds)) for number, seconds in enumerate(HARMFUL_SECONDS)
    ]
    storage.put(f"{tmp_path}/in/a.tar", tar_bytes(members))
    storage.put(f"{tmp_path}/in/b.tar", tar_bytes([("c.flac", clip(1.0))]))
    harmful = FilterSettings(quality="tests.quality_scores:harmful")
    limits = Limits(decode_seconds=2.5, memory_mb=500)
    events = finish(DecodeSettings(limits=limits, filters=harmful))
    assert [event.kind for event in events] == [EventKind.COMMITTED] * 2
    expected = {"DecodeCrashed": 3, "DecodeTimeout": 2, "DecodeOutOfMemory": 1}
    assert [event.report.rejects for event in events] == [expected, {}]
    assert [event.report.rows for event in events] == [1, 1]


def test_a_gpu_that_fails_ends_the_run_because_no_other_process_can_take_over(
    tmp_path, finish, monkeypatch
):
    def fail(*_):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(Tokenizer, "__call__", fail)
    write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=1)
    with pytest.raises(DeviceBroken, match="illegal memory access"):
        finish()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_a_run_that_wants_one_is_refused_with_the_cure(storage):
    job = TokenizeJob((CodecOutput("out", codec_info("null"), OPTIONS),), storage, DecodeSettings())
    with pytest.raises(InputError, match=r"set workers\.num_gpus=0"):
        LocalPool(job, WorkerSettings(count=0))


def test_a_negative_number_of_workers_is_refused():
    with pytest.raises(InputError, match=r"workers\.count is -1"):
        WorkerSettings(count=-1)


def test_a_run_in_this_process_imports_neither_ray_nor_pandas(tmp_path):
    write_corpus(tmp_path / "in", num_shards=1, clips_per_shard=1)
    settings = {
        "shards": [f"{tmp_path}/in/"],
        "output": f"{tmp_path}/out",
        "codec": {"name": "null"},
    }
    (tmp_path / "c.yaml").write_text(
        json.dumps({**settings, "workers": {"count": 0, "num_gpus": 0}})
    )
    script = (
        "import sys; from speechmill.jobs.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False)\n"
        "assert not {'ray', 'pandas'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", script, "tokenize", f"{tmp_path}/c.yaml"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1/1 shards" in done.stdout
