import io
import json
import struct

import numpy as np
import pyarrow.parquet as pq
import pytest

from speechmill.pipeline.dataset.export import export_parts
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.dataset.patterns import make_pattern, pattern_from
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


def run(dataset, folder, kind, pattern, first_id=0) -> list[str]:
    parts = export_parts(dataset, str(folder), dataset.storage, kind, pattern, first_id)
    return [name for name, _ in parts]


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


@pytest.mark.parametrize("name", ["flatten", "delay"])
@pytest.mark.parametrize(("first_id", "width"), [(0, 2), (128_256, 4)])
def test_megatron_reads_back_what_the_dataset_holds(dataset, tmp_path, name, first_id, width):
    pattern = make_pattern(name, SIZES).flat()
    parts = run(dataset, tmp_path / "to", "megatron", pattern, first_id)
    found = [ids_N for part in parts for ids_N in read_megatron(tmp_path / "to" / "data", part)]
    assert {ids_N.dtype.itemsize for ids_N in found} == {width}
    for ids_N, codes_FK in zip(found, stored(dataset), strict=True):
        np.testing.assert_array_equal(pattern.decode(ids_N.astype(np.int32) - first_id), codes_FK)


def test_parquet_has_a_column_for_each_codebook_or_one_of_ids(dataset, tmp_path):
    delay, flatten = make_pattern("delay", SIZES[:2]), make_pattern("flatten", SIZES)
    run(dataset, tmp_path / "delay", "parquet", delay)
    run(dataset, tmp_path / "flat", "parquet", flatten)
    rows = pq.read_table(tmp_path / "delay" / "data").to_pylist()
    flat = pq.read_table(tmp_path / "flat" / "data").to_pylist()
    for row, ids, codes_FK in zip(rows, flat, stored(dataset), strict=True):
        rows_TK = np.stack([row["codes_0"], row["codes_1"]], axis=1)
        np.testing.assert_array_equal(delay.decode(rows_TK), codes_FK[:, :2])
        np.testing.assert_array_equal(flatten.decode(np.array(ids["input_ids"])), codes_FK)


def test_npy_files_are_codebooks_by_frames(dataset, tmp_path):
    parts = run(dataset, tmp_path / "to", "npy", make_pattern("parallel", SIZES))
    keys = pq.read_table(f"{dataset.root}/tokens", columns=["key"])["key"].to_pylist()
    files = [tmp_path / "to" / "data" / parts[int(key[:3])] / f"{key}.npy" for key in keys]
    for file, codes_FK in zip(files, stored(dataset), strict=True):
        np.testing.assert_array_equal(np.load(io.BytesIO(file.read_bytes())).T, codes_FK)


def test_an_export_resumes_describes_its_ids_and_refuses_another(dataset, tmp_path):
    pattern = make_pattern("flatten", SIZES)
    assert len(run(dataset, tmp_path / "to", "megatron", pattern)) == 2
    assert run(dataset, tmp_path / "to", "megatron", pattern) == []
    stated = json.loads((tmp_path / "to" / "export.json").read_text())
    assert (stated["codec"], stated["num_ids"]) == ("null", 8192)
    assert pattern_from(stated["pattern"]) == pattern
    with pytest.raises(InputError, match="another export"):
        run(dataset, tmp_path / "to", "npy", pattern)
