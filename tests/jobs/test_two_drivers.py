"""Two drivers over one output at once: of one configuration, of two, of two versions."""

import os
import subprocess
import sys
from functools import partial
from importlib import metadata

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechmill.pipeline.dataset.layout import AUDIO, AUDIO_VERSION, TokenDataset
from speechmill.pipeline.errors import DatasetConflict
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.versions import library_versions
from tests.conftest import FRAGILE
from tests.corpus import corpus, write_corpus
from tests.jobs.conftest import command, contents, invoke, wait_until
from tests.other_version import pretend_version

HERE = ("workers.count=0", "workers.num_gpus=0")


@pytest.fixture
def driver(tmp_path):
    """Start `speechmill tokenize` as a process of its own; it is killed after the test."""
    started = []

    def start(path, *overrides, environment=None):
        log = (tmp_path / f"log-{len(started)}").open("w")
        arguments = command("tokenize", str(path), *overrides)
        variables = os.environ | (environment or {})
        started.append(subprocess.Popen(arguments, env=variables, stdout=log, stderr=log))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def s3_corpus(rgw, bucket):
    """Five tars, of which the last is cut."""
    storage = Storage({"s3": rgw.storage_options})
    tars = corpus(num_shards=5, clips_per_shard=2, seconds=0.5)
    tars["shard-0004.tar"] = tars["shard-0004.tar"][:3000]
    for name, data in tars.items():
        storage.put(f"{bucket}/in/{name}", data)
    return storage


def rows(files: dict[str, bytes]) -> dict[str, pa.Table]:
    """The rows of the parts, without the versions in their footers."""
    tables = {name: pq.read_table(pa.BufferReader(data)) for name, data in files.items()}
    return {name: table.replace_schema_metadata(None) for name, table in tables.items()}


def urls(storage: Storage, folder: str, ending: str) -> list[str]:
    return [file.url for file in storage.list_files(folder) if file.url.endswith(ending)]


@pytest.mark.parametrize("version", [None, "0.0.9"], ids=["on one cluster", "of two versions"])
def test_two_drivers_of_which_one_is_killed_leave_what_one_would(
    version, rgw, bucket, s3_corpus, config, driver, tmp_path, monkeypatch
):
    """Two versions each compute in their own process, since nodes of another are refused."""
    where = HERE if version else ("workers.shards_in_flight=1",)
    python_path = os.pathsep.join([str(FRAGILE), *filter(None, sys.path)])
    variables = {"PYTHONPATH": python_path, **rgw.environment}
    path = config(f"{bucket}/in/", f"{bucket}/both", codec="fragile", environment=variables)
    arguments = (path, "codec.options.seconds=1.5", *where)
    first = driver(*arguments, environment=variables)
    if version:
        pretend_version(tmp_path / "other", "speechmill", version)
        variables = variables | {"PYTHONPATH": f"{tmp_path}/other{os.pathsep}{python_path}"}
    second = driver(*arguments, environment=variables)
    written = partial(urls, s3_corpus, f"{bucket}/both")
    wait_until(lambda: written(".parquet") and len(written("/config.yaml")) == 2, first)
    assert first.poll() is None
    first.kill()
    assert second.wait() == 1  # for the cut tar
    assert (len(written("/config.yaml")), len(written("/summary.json"))) == (2, 1)
    monkeypatch.syspath_prepend(FRAGILE)
    for name, value in rgw.environment.items():
        monkeypatch.setenv(name, value)
    assert invoke("tokenize", path, f"output={bucket}/calm", *HERE).exit_code == 1
    both, calm = (contents(s3_corpus, f"{bucket}/{name}") for name in ("both", "calm"))
    [failed] = [name for name in calm if name.startswith("/failed/")]
    assert both.pop(failed) == calm.pop(failed)
    assert (len(calm), rows(both)) == (4, rows(calm))
    assert version or both == calm
    verified = invoke("verify", f"{bucket}/both")
    assert "faults 1" in " ".join(verified.output.split()), verified.output  # the cut tar


def test_of_two_drivers_that_begin_a_dataset_at_once_the_second_must_want_the_same(tmp_path):
    """Both looked before either wrote."""

    class Slow(TokenDataset):
        def read_identity(self):
            found = super().read_identity()
            if found is None:
                TokenDataset(self.root, self.storage).claim({AUDIO: AUDIO_VERSION, "codec": "null"})
            return found

    slow = Slow(str(tmp_path / "out"), Storage())
    with pytest.raises(DatasetConflict, match="codec = 'null', this run has 'pure'"):
        slow.claim({AUDIO: AUDIO_VERSION, "codec": "pure"})
    (tmp_path / "out" / "dataset.json").unlink()
    slow.claim({AUDIO: AUDIO_VERSION, "codec": "null"})


def test_a_shard_that_the_other_driver_did_is_not_left_as_failed(tmp_path, monkeypatch):
    write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=1, seconds=0.3)
    (tmp_path / "run.yaml").write_text(f"shards: [{tmp_path}/in]\noutput: {tmp_path}/out\n")
    arguments = ("tokenize", tmp_path / "run.yaml", "codec.name=null", *HERE)
    assert invoke(*arguments).exit_code == 0
    _, other = (tmp_path / "out" / "tokens").iterdir()
    other.unlink()
    clear = TokenDataset.failed_names

    def other_driver_gives_up(dataset):
        names = clear(dataset)
        dataset.storage.put(f"{dataset.root}/failed/{other.stem}.json", b"{}")
        return names

    monkeypatch.setattr(TokenDataset, "failed_names", other_driver_gives_up)
    assert invoke(*arguments).exit_code == 0
    assert list((tmp_path / "out" / "failed").iterdir()) == []


@pytest.fixture
def upgrade(tmp_path, monkeypatch):
    """Let this process take itself for a later version, until the end of the test."""

    def to(later: str) -> None:
        pretend_version(tmp_path / "later", "speechmill", later)
        monkeypatch.syspath_prepend(tmp_path / "later")
        library_versions.cache_clear()

    yield to
    library_versions.cache_clear()


def test_a_dataset_is_continued_by_a_later_version_which_is_named(tmp_path, upgrade):
    paths = write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=2, seconds=0.5)
    (tmp_path / "run.yaml").write_text(f"shards: [{tmp_path}/in]\noutput: {tmp_path}/out\n")
    arguments = ("tokenize", tmp_path / "run.yaml", "codec.name=null", *HERE)
    assert invoke(*arguments, f"shards=[{paths[0]}]").exit_code == 0
    before = metadata.version("speechmill")
    upgrade("99.1")
    done = invoke(*arguments)
    assert done.exit_code == 0
    assert f"versions speechmill {before} -> 99.1 since the last run" in done.output
    verified = invoke("verify", tmp_path / "out")
    assert verified.exit_code == 0
    assert f"speechmill {before} in 1, 99.1 in 1 of 2 parts" in " ".join(verified.output.split())
