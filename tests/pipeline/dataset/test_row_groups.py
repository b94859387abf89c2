import io
import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechmill.pipeline.dataset.layout import FOOTER_BYTES, TokenDataset
from speechmill.pipeline.dataset.row_groups import INDEX, INDEX_SCHEMA, RowGroup, list_row_groups
from speechmill.pipeline.errors import DatasetConflict, InputError
from tests.conftest import REPOSITORY
from tests.token_parts import make_token_dataset

MADE = REPOSITORY / "tests" / "data" / "made-by-3ee6561" / "dataset"


@pytest.fixture
def dataset(tmp_path, storage) -> TokenDataset:
    """Two parts of an early version."""
    shutil.copytree(MADE / "pure-16k-small", tmp_path / "out")
    return TokenDataset(str(tmp_path / "out"), storage)


def first(dataset: TokenDataset) -> str:
    return dataset.part_url(min(dataset.parts()))


def rewrite(dataset: TokenDataset, rows_per_group: int, **changes: object) -> None:
    """Write the first part again, with a changed footer."""
    table = pq.read_table(io.BytesIO(dataset.storage.read_bytes(first(dataset))))
    footer = json.loads(table.schema.metadata[b"speechmill"]) | changes
    sink = io.BytesIO()
    table = table.replace_schema_metadata({"speechmill": json.dumps(footer)})
    pq.write_table(table, sink, row_group_size=rows_per_group)
    dataset.storage.put(first(dataset), sink.getvalue())


def test_the_row_groups_are_those_of_the_files_in_their_order(dataset):
    rewrite(dataset, rows_per_group=2, padding="x" * FOOTER_BYTES)  # more than one read of the end
    found = []
    for name in sorted(dataset.parts()):
        file = pq.ParquetFile(io.BytesIO(dataset.storage.read_bytes(dataset.part_url(name))))
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number)
            found.append(RowGroup(name, number, len(rows), sum(rows["num_frames"].to_pylist())))
    assert len(found) > 2
    assert list_row_groups(dataset) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema_version is 2, dataset.json says 1"),
        ({"layout": "nested"}, "layout is 'nested'"),
        ({"precision": "bf16"}, "precision is 'bf16'"),
    ],
)
def test_a_part_of_another_dataset_is_refused_by_name(dataset, changes, message):
    rewrite(dataset, 9, **changes)
    with pytest.raises(DatasetConflict, match=message) as caught:
        list_row_groups(dataset)
    assert str(caught.value).startswith(f"{first(dataset)} is a part of another dataset")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_part_is_named_in_one_line(dataset, share):
    data = dataset.storage.read_bytes(first(dataset))
    dataset.storage.put(first(dataset), data[: int(share * len(data))])
    with pytest.raises(InputError, match=r"is damaged: .* see `speechmill verify`") as caught:
        list_row_groups(dataset)
    assert first(dataset) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_codes_that_the_footer_does_not_count_are_refused(dataset):
    rewrite(dataset, 9, frames=1)
    with pytest.raises(InputError, match="its footer counts 1 frames"):
        list_row_groups(dataset)


def test_a_dataset_without_parts_has_no_row_groups(dataset):
    for name in dataset.parts():
        dataset.storage.delete(dataset.part_url(name))
    assert list_row_groups(dataset) == []
    dataset.storage.delete(f"{dataset.root}/dataset.json")
    with pytest.raises(InputError, match="no token dataset"):
        list_row_groups(dataset)


@pytest.mark.parametrize("numbers", [[0, 0], [1], [0, 2]])
def test_an_index_that_names_a_row_group_twice_or_leaves_one_out_is_refused(tmp_path, numbers):
    dataset = make_token_dataset(str(tmp_path / "out"), [[3]])
    identity = tmp_path / "out" / "dataset.json"
    identity.write_text(json.dumps({**json.loads(identity.read_text()), "compacted": 1}))
    rows = [("part-00000", number, 1, 3, 0.06) for number in numbers]
    index = pa.table([*zip(*rows, strict=True)], schema=INDEX_SCHEMA)
    pq.write_table(index, tmp_path / "out" / INDEX)
    with pytest.raises(InputError, match=r"index\.parquet is damaged: .* missing or there twice"):
        list_row_groups(dataset)
