import json

import pytest

from speechmill.codecs import codec_info
from speechmill.codecs.shapes import ShapeSettings
from speechmill.pipeline.audio.filters import FilterSettings
from speechmill.pipeline.audio.recordings import RecordingSettings
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.audio.segment import SegmentSettings
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity, recorded_batch
from speechmill.pipeline.errors import DatasetConflict, InputError
from speechmill.pipeline.shards.listing import list_shards
from tests.corpus import write_corpus
from tests.one_shard import tokenize_one

INFO = codec_info("null")


@pytest.fixture
def dataset(tmp_path, storage):
    return TokenDataset(str(tmp_path / "out"), storage)


@pytest.fixture
def shards(tmp_path, storage):
    write_corpus(tmp_path / "in", num_shards=3, clips_per_shard=2, seconds=0.3)
    return list_shards([str(tmp_path / "in")], storage)


def test_a_dataset_is_claimed_once_and_again_by_the_same_identity(dataset):
    wanted = dataset_identity(INFO, "fp32", RecordingSettings())
    dataset.claim(wanted)
    dataset.claim(wanted)
    assert dataset.read_identity() == wanted == json.loads(json.dumps(wanted))


def test_settings_of_segments_that_came_later_leave_old_identities_as_they_are():
    def keys(**changed):
        segment = SegmentSettings(by="metadata", **changed)
        return set(dataset_identity(INFO, "fp32", RecordingSettings(segment=segment))["segment"])

    assert keys(list="segments") - keys() == {"list"}
    assert keys(texts="text_tn") - keys() == {"texts"}


@pytest.mark.parametrize(
    ("key", "other"),
    [
        ("codec", dataset_identity(codec_info("pure-16k-small"), "fp32", RecordingSettings())),
        ("precision", dataset_identity(INFO, "bf16", RecordingSettings())),
        (
            "channels",
            dataset_identity(INFO, "fp32", RecordingSettings(AudioSettings(channels="first"))),
        ),
        (
            "resampler",
            dataset_identity(INFO, "fp32", RecordingSettings(AudioSettings(resampler="soxr_vhq"))),
        ),
        (
            "segment",
            dataset_identity(INFO, "fp32", RecordingSettings(segment=SegmentSettings(by="fixed"))),
        ),
        ("filters", dataset_identity(INFO, "fp32", RecordingSettings(filters=FilterSettings(1.0)))),
    ],
)
def test_another_identity_is_refused_with_the_difference_and_the_cure(dataset, key, other):
    dataset.claim(dataset_identity(INFO, "fp32", RecordingSettings()))
    with pytest.raises(DatasetConflict, match=f"{key} = .*set another output"):
        dataset.claim(other)


def test_parts_of_an_unknown_codec_are_refused(dataset, shards, storage, null_codec):
    tokenize_one(shards[0], dataset.root, storage, null_codec)
    with pytest.raises(
        DatasetConflict,
        match=r"dataset\.json, which names their model, is missing; set another output",
    ):
        dataset.claim(dataset_identity(INFO, "fp32", RecordingSettings()))


def test_todo_lists_the_shards_without_a_part(dataset, shards, storage, null_codec):
    assert dataset.todo(shards) == shards
    tokenize_one(shards[1], dataset.root, storage, null_codec)
    assert dataset.todo(shards) == [shards[0], shards[2]]


def test_a_shard_that_changed_after_it_was_tokenized_is_refused(
    dataset, shards, storage, null_codec, tmp_path
):
    tokenize_one(shards[0], dataset.root, storage, null_codec)
    write_corpus(tmp_path / "in", num_shards=1, clips_per_shard=1, seconds=0.3)
    changed = list_shards([str(tmp_path / "in")], storage)
    with pytest.raises(DatasetConflict, match=rf"delete .*{shards[0].name}\.parquet"):
        dataset.todo(changed)


def test_a_run_over_other_shards_may_add_to_a_dataset(dataset, shards, storage, null_codec):
    tokenize_one(shards[0], dataset.root, storage, null_codec)
    assert dataset.todo(shards[1:]) == shards[1:]


def test_half_written_files_are_not_parts(dataset, shards, storage, null_codec, tmp_path):
    (tmp_path / "out" / "tokens").mkdir(parents=True)
    (tmp_path / "out" / "tokens" / f".{shards[0].name}.parquet.abc.tmp").write_bytes(b"PAR1")
    assert dataset.parts() == set()
    assert dataset.todo(shards) == shards


def test_files_of_other_kinds_are_no_parts(dataset, shards, storage):
    for folder in ("tokens", "rejects", "failed"):
        storage.put(f"{dataset.root}/{folder}/README.md", b"Do not delete.")
        assert dataset.parts(folder) == set()
    assert dataset.failures() == []


def test_failures_are_kept_until_cleared(dataset, shards):
    dataset.mark_failed(shards[0], {"shard": shards[0].url, "error": "ShardCut"})
    assert dataset.failures() == [{"shard": shards[0].url, "error": "ShardCut"}]
    assert dataset.parts("failed") == {shards[0].name}
    assert dataset.failed_names() == {shards[0].url: [shards[0].name]}
    dataset.clear_failed(shards[0].name)
    assert dataset.failures() == []


def test_a_dataset_keeps_the_shapes_of_its_batches_on_gpus(dataset):
    def on_gpu(seconds: float) -> dict[str, object]:
        batch = ShapeSettings(seconds=seconds)
        return dataset_identity(INFO, "bf16", RecordingSettings(), batch=batch)

    dataset.claim(on_gpu(160.0))
    assert recorded_batch(dataset.require_identity()) == ShapeSettings(seconds=160.0)
    dataset.claim(on_gpu(160.0))
    dataset.claim(dataset_identity(INFO, "bf16", RecordingSettings()))  # on CPUs
    with pytest.raises(DatasetConflict, match=r"batch = .*set another output"):
        dataset.claim(on_gpu(80.0))


def test_a_dataset_that_was_begun_on_cpus_is_continued_on_gpus(dataset):
    dataset.claim(dataset_identity(INFO, "fp32", RecordingSettings()))
    assert recorded_batch(dataset.require_identity()) is None
    dataset.claim(dataset_identity(INFO, "fp32", RecordingSettings(), batch=ShapeSettings()))
    assert recorded_batch(dataset.require_identity()) == ShapeSettings()


@pytest.mark.parametrize(
    "batch", [{"seconds": -1}, {"seconds": "much"}, {"max_rows": 2.5}, {"rows": 3}, 160]
)
def test_damaged_shapes_are_named(batch):
    with pytest.raises(InputError, match=r"batch of dataset\.json is damaged"):
        recorded_batch({"batch": batch})
