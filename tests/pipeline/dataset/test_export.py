import io
import json
import struct

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.pipeline.dataset.export import export_parts
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.dataset.patterns import NAMES, Pattern
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.decode import DecodeSettings
from tests.corpus import write_corpus
from tests.one_shard import tokenize_one

SIZES = (1024,) * 8


@pytest.fixture
def dataset(tmp_path, storage, null_codec) -> TokenDataset:
    write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=3, seconds=0.3)
    dataset = TokenDataset(str(tmp_path / "out"), storage)
    dataset.claim(dataset_identity(null_codec.info, "fp32", DecodeSettings()))
    for shard in list_shards([str(tmp_path / "in")], storage):
        tokenize_one(shard, dataset.root, storage, null_codec)
    return dataset


def stored(dataset) -> list[np.ndarray]:
    """codes_FK of every utterance, by part."""
    table = pq.read_table(f"{dataset.root}/tokens")
    return [np.array(codes).reshape(-1, 8) for codes in table["codes"].to_pylist()]


def run(dataset, folder, kind, pattern) -> list[str]:
    return [name for name, _ in export_parts(dataset, str(folder), dataset.storage, kind, pattern)]


def read_megatron(folder, name: str) -> list[np.ndarray]:
    """Parse the files as Megatron-Core specifies them, without code of the writer."""
    index, data = (folder / f"{name}.idx").read_bytes(), (folder / f"{name}.bin").read_bytes()
    assert index[:9] == b"MMIDIDX\x00\x00"
    version, code, count, documents = struct.unpack_from("<QBQQ", index, 9)
    assert (version, documents) == (1, count + 1)
    kind = {8: np.dtype("<u2"), 4: np.dtype("<i4")}[code]
    lengths = np.frombuffer(index, "<i4", count, 34)
    positions = np.frombuffer(index, "<i8", count, 34 + 4 * count)
    ends = np.frombuffer(index, "<i8", documents, 34 + 12 * count)
    assert ends.tolist() == list(range(count + 1))
    assert len(index) == 34 + 12 * count + 8 * documents
    assert positions[-1] + lengths[-1] * kind.itemsize == len(data)
    spans = zip(positions.tolist(), lengths.tolist(), strict=True)
    return [np.frombuffer(data, kind, length, position) for position, length in spans]


@settings(deadline=None)
@given(
    name=st.sampled_from(NAMES),
    sizes=st.lists(st.integers(1, 70_000), min_size=1, max_size=9),
    frames=st.integers(0, 20),
    first_id=st.integers(0, 200_000),
    data=st.data(),
)
def test_every_pattern_can_be_undone(name, sizes, frames, first_id, data):
    shifts = data.draw(st.lists(st.integers(0, 9), min_size=len(sizes), max_size=len(sizes)))
    pattern = Pattern(name, tuple(sizes), tuple(shifts), first_id)
    codes_FK = np.random.default_rng(frames).integers(0, sizes, (frames, len(sizes)))
    np.testing.assert_array_equal(pattern.frames(pattern.rows(codes_FK)), codes_FK)
    ids_N = pattern.flat(codes_FK)
    np.testing.assert_array_equal(pattern.unflat(ids_N), codes_FK)
    assert all(first_id <= each < pattern.bases[-1] for each in ids_N)


def test_a_delay_shifts_each_codebook_and_pads_with_its_size():
    codes_FK = np.array([[1, 2, 3], [4, 5, 6]])
    rows_TK = Pattern("delay", (10, 20, 30)).rows(codes_FK)
    assert rows_TK.tolist() == [[1, 20, 30], [4, 2, 30], [10, 5, 3], [10, 20, 6]]


def test_flat_ids_are_frame_major_with_a_range_for_each_codebook():
    ids_N = Pattern("flatten", (10, 20), first_id=100).flat(np.array([[1, 2], [3, 4]]))
    assert ids_N.tolist() == [101, 112, 103, 114]


@pytest.mark.parametrize("name", ["flatten", "delay"])
@pytest.mark.parametrize(("first_id", "width"), [(0, 2), (128_256, 4)])
def test_megatron_reads_back_what_the_dataset_holds(dataset, tmp_path, name, first_id, width):
    pattern = Pattern(name, SIZES, first_id=first_id)
    parts = run(dataset, tmp_path / "to", "megatron", pattern)
    found = [ids_N for part in parts for ids_N in read_megatron(tmp_path / "to" / "data", part)]
    assert {ids_N.dtype.itemsize for ids_N in found} == {width}
    for ids_N, codes_FK in zip(found, stored(dataset), strict=True):
        np.testing.assert_array_equal(pattern.unflat(ids_N), codes_FK)


def test_parquet_has_a_column_for_each_codebook_or_one_of_ids(dataset, tmp_path):
    delay, flatten = Pattern("delay", SIZES[:2]), Pattern("flatten", SIZES)
    run(dataset, tmp_path / "delay", "parquet", delay)
    run(dataset, tmp_path / "flat", "parquet", flatten)
    rows = pq.read_table(tmp_path / "delay" / "data").to_pylist()
    flat = pq.read_table(tmp_path / "flat" / "data").to_pylist()
    for row, ids, codes_FK in zip(rows, flat, stored(dataset), strict=True):
        rows_TK = np.stack([row["codes_0"], row["codes_1"]], axis=1)
        np.testing.assert_array_equal(delay.frames(rows_TK), codes_FK[:, :2])
        np.testing.assert_array_equal(flatten.unflat(np.array(ids["input_ids"])), codes_FK)


def test_npy_files_are_codebooks_by_frames(dataset, tmp_path):
    parts = run(dataset, tmp_path / "to", "npy", Pattern("parallel", SIZES))
    keys = pq.read_table(f"{dataset.root}/tokens", columns=["key"])["key"].to_pylist()
    files = [tmp_path / "to" / "data" / parts[int(key[:3])] / f"{key}.npy" for key in keys]
    for file, codes_FK in zip(files, stored(dataset), strict=True):
        np.testing.assert_array_equal(np.load(io.BytesIO(file.read_bytes())).T, codes_FK)


def test_an_export_resumes_describes_its_ids_and_refuses_another(dataset, tmp_path):
    pattern = Pattern("flatten", SIZES)
    assert len(run(dataset, tmp_path / "to", "megatron", pattern)) == 2
    assert run(dataset, tmp_path / "to", "megatron", pattern) == []
    stated = json.loads((tmp_path / "to" / "export.json").read_text())
    assert (stated["codec"], stated["num_ids"], stated["first_ids"][:2]) == (
        "null",
        8192,
        [0, 1024],
    )
    with pytest.raises(InputError, match="another export"):
        run(dataset, tmp_path / "to", "npy", pattern)


@pytest.mark.parametrize("wrong", [{"name": "zigzag"}, {"name": "delay", "shifts": (1, 2)}])
def test_an_invalid_pattern_is_refused(wrong):
    with pytest.raises(InputError, match=r"pattern|shifts"):
        Pattern(**{"sizes": SIZES, **wrong})
