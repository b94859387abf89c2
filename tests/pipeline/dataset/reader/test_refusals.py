import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.dataset.reader import TokenReader
from speechmill.pipeline.dataset.templates import PatternEncoder, make_template
from speechmill.pipeline.errors import DatasetConflict, InputError
from tests.token_parts import make_token_dataset, write_part

SIZES = (1024,) * 8
FLATTEN = PatternEncoder(make_pattern("flatten", SIZES))


@pytest.fixture
def dataset(tmp_path):
    return make_token_dataset(str(tmp_path / "out"), [[3, 5, 2], [4] * 5], rows_per_group=3)


def refused(message: str, dataset, *arguments, **settings) -> None:
    with pytest.raises(InputError, match=message) as caught:
        list(TokenReader(dataset, *arguments, **settings))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"shuffle_rows": 0}, "shuffle_rows is 0"),
        ({"rank": 2, "world_size": 2}, "rank is 2 of 2"),
        ({"rank": 1}, "set both or neither"),
        ({"rank": 0.0, "world_size": 1}, "rank is 0.0; give a whole number from 0 up, or None"),
        ({"columns": None}, "columns is None; give a list"),
        ({"columns": "text"}, "columns is 'text'; give a list"),
        ({"columns": 5}, "columns is 5; give a list"),
        ({"columns": [5]}, "no column 5"),
        ({"parts": 5}, "parts is 5; give a list"),
        ({"where": ""}, "where is ''"),
        ({"where": 3}, "where is 3; give a condition as text"),
        ({"columns": ["texts"]}, "no column 'texts'; did you mean 'text'"),
        ({"where": "speaker == 'x'"}, "no column 'speaker'"),
        ({"until": "last"}, "until is 'last'; use one of first, all, never"),
        ({"tail": "even"}, "tail is 'even'"),
        ({"tail": "drop", "where": "duration > 1"}, "even_batches"),
        ({"sequence_length": 9}, "sequence_length is set without encoder"),
        ({"encoder": FLATTEN}, "encoder is set without sequence_length"),
        ({"parts": ["x"]}, "it has none of `parts`"),
        ({"parts": "train-00000"}, "parts is 'train-00000'; give a list"),
        ({"seed": 1.5}, "seed is 1.5; give a whole number from 0 up"),
        ({"shuffle_rows": True}, "shuffle_rows is True"),
        ({"read_ahead": -1}, "read_ahead is -1"),
        ({"encoder": FLATTEN, "sequence_length": 64.0}, "sequence_length is 64.0"),
        ({"encoder": FLATTEN.pattern, "sequence_length": 64}, r"give PatternEncoder\(pattern\)"),
    ],
)
def test_impossible_settings_are_refused(dataset, settings, message):
    refused(message, dataset, **settings)


def test_a_sequence_shorter_than_one_frame_is_refused_with_both_numbers(dataset):
    refused("sequence_length is 7, and one frame alone has 8 ids", dataset, FLATTEN, 7)
    refused("sequence_length is 0", dataset, FLATTEN, 0)
    assert list(TokenReader(dataset, FLATTEN, 8))


def test_a_pattern_for_other_codebooks_is_refused(dataset):
    other = PatternEncoder(make_pattern("flatten", (1024, 1024)))
    refused("made for 2 codebooks", dataset, other, 64)


def test_a_name_of_no_part_is_refused_and_names_may_come_from_any_iterable(dataset):
    empty, names = write_part(dataset, 5, []), sorted(dataset.parts())
    assert len(list(TokenReader(dataset, parts=(name for name in names)))) == 8
    assert empty in names
    refused("parts names 'gone', which no dataset has", dataset, parts=[*names, "gone"])


def test_an_epoch_must_be_a_number_from_0_up(dataset):
    for epoch in (-1, 0.5, None):
        with pytest.raises(InputError, match=f"epoch is {epoch}"):
            TokenReader(dataset).set_epoch(epoch)


@pytest.mark.parametrize("weight", [0, -1, float("nan"), float("inf"), "0.5", None])
def test_a_weight_must_be_a_number_over_0(dataset, weight):
    refused(f"is {weight!r}; give a number over 0", [(dataset, weight)])
    refused("the list of datasets is empty", [])
    refused("has no weight; give pairs", [dataset.root])
    refused("datasets is 5; give a path, or a list", 5)
    refused("5 is not a dataset; give its path", [(5, 1)])


def test_a_dataset_without_rows_is_refused(tmp_path):
    make_token_dataset(str(tmp_path / "none"), [])
    refused("none has no rows to read; tokenize first", str(tmp_path / "none"))
    refused("no token dataset at", str(tmp_path / "nowhere"))


def test_a_part_of_another_codec_is_refused_by_name(dataset, tmp_path):
    other = make_token_dataset(str(tmp_path / "other"), [[], [], [9]], codec="pure-16k-small")
    name = max(other.parts())
    dataset.storage.put(dataset.part_url(name), other.storage.read_bytes(other.part_url(name)))
    with pytest.raises(DatasetConflict, match=rf"{name}\.parquet is a part of another dataset"):
        TokenReader(dataset)


def test_datasets_of_two_codecs_are_not_mixed(dataset, tmp_path):
    other = make_token_dataset(str(tmp_path / "other"), [[3]], codec="pure-16k-small")
    with pytest.raises(DatasetConflict, match=r"codes of pure-16k-small .* of null .* one codec"):
        TokenReader([(dataset, 0.5), (other, 0.5)])


def test_a_damaged_part_is_named_in_one_line(dataset):
    reader, url = TokenReader(dataset), dataset.part_url(min(dataset.parts()))
    data = bytearray(Path(url).read_bytes())
    data[400] ^= 1  # among the pages of the columns that are read
    Path(url).write_bytes(data)
    with pytest.raises(InputError, match=re.escape(f"{url} is damaged")) as caught:
        list(reader)
    assert "\n" not in str(caught.value)


def test_a_part_that_disappears_or_is_replaced_is_named(dataset):
    reader, name = TokenReader(dataset), min(dataset.parts())
    data = Path(dataset.part_url(name)).read_bytes()
    Path(dataset.part_url(name)).unlink()
    with pytest.raises(InputError, match=rf"{name}\.parquet is gone since"):
        list(reader)
    other = Path(dataset.part_url(max(dataset.parts()))).read_bytes()
    Path(dataset.part_url(name)).write_bytes(other)
    assert other != data
    with pytest.raises(InputError, match=rf"{name}\.parquet was replaced since"):
        list(reader)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed = 0, this reader has 1; set seed as it was"),
        ({"shuffle_rows": 9}, "shuffle_rows = 16384, this reader has 9"),
        ({"sequence_length": 70}, "sequence_length = 64, this reader has 70"),
        ({"encoder": make_template(make_pattern("flatten", SIZES), "after")}, "encoder.text = 'be"),
        ({"encoder": FLATTEN}, r"encoder\.version|encoder\.text"),
        ({"long_documents": "cut"}, "long_documents = 'split'"),
        ({"where": "num_frames > 3"}, "where = None"),
    ],
)
def test_a_state_of_another_reader_is_refused_with_the_difference(dataset, changed, message):
    settings = {
        "encoder": make_template(make_pattern("flatten", SIZES), "before"),
        "sequence_length": 64,
    }
    state = TokenReader(dataset, **settings).state_dict()
    with pytest.raises(InputError, match=message):
        TokenReader(dataset, **settings | changed).load_state_dict(state)


def test_a_state_of_another_dataset_is_refused_and_one_of_fewer_parts_names_the_cure(
    dataset, tmp_path
):
    reader = TokenReader(dataset)
    state, parts = reader.state_dict(), reader.parts
    write_part(dataset, 7, [1, 2])
    with pytest.raises(InputError, match=r"8 rows in 2 parts .* 10 rows in 3 parts .* by parts="):
        TokenReader(dataset).load_state_dict(state)
    then = TokenReader(dataset, parts=parts)
    then.load_state_dict(state)
    assert len(list(then)) == 8
    other = make_token_dataset(str(tmp_path / "other"), [[3, 5, 2], [4] * 4 + [5]])
    with pytest.raises(InputError, match="the state is of 8 rows"):
        TokenReader(other).load_state_dict(state)


@pytest.mark.parametrize(
    "damage",
    [
        {"bases": []},
        {"places": []},
        {"places": [{"epoch": -1}]},
        {"places": [{"epoch": 0, "position": "x"}]},
        {"identity": {"datasets": "x"}},
    ],
)
def test_a_damaged_state_is_refused_in_one_line(dataset, damage):
    reader = TokenReader(dataset)
    with pytest.raises(InputError, match="this is not the state of a TokenReader"):
        reader.load_state_dict(reader.state_dict() | damage)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("text", pa.array([b"\xff\xfe"]).view(pa.string()), "UnicodeDecodeError"),
        ("codes", pa.array([[1024] * 24], pa.list_(pa.uint16())), "a code is not in its codebook"),
        ("codes", pa.array([[-1] * 24]), "its codes are int64"),
    ],
)
def test_what_is_not_text_or_a_code_is_named_with_its_part(tmp_path, column, values, message):
    dataset = make_token_dataset(str(tmp_path / "out"), [[3]])
    [url] = map(dataset.part_url, dataset.parts())
    table = pq.read_table(url)
    field = table.schema.field(column).with_type(values.type)
    pq.write_table(table.set_column(table.column_names.index(column), field, values), url)
    refused(f"^{re.escape(url)} is damaged: .*{message}", dataset)


def test_a_part_that_lacks_a_column_or_has_it_twice_is_named(tmp_path):
    dataset = make_token_dataset(str(tmp_path / "out"), [[3]])
    [url] = map(dataset.part_url, dataset.parts())
    table = pq.read_table(url)
    pq.write_table(table.drop_columns(["text"]), url)
    encoder = make_template(make_pattern("flatten", SIZES), "before")
    refused(f"^{re.escape(url)}: the rows have no column 'text', which", dataset, encoder, 64)
    pq.write_table(table.append_column("text", table["text"]), url)
    refused(f"^{re.escape(url)} is damaged: .* a column is there twice", dataset)


def test_a_state_of_another_rank_is_refused(dataset):
    state = TokenReader(dataset, rank=0, world_size=2).state_dict()
    reader = TokenReader(dataset, rank=1, world_size=2)
    reader.load_state_dict(state)
    with pytest.raises(InputError, match=r"rank=0.*rank=1.*merge_states"):
        list(reader)


def test_a_part_that_came_from_another_codec_since_is_refused(tmp_path):
    dataset = make_token_dataset(str(tmp_path / "out"), [[3, 4]])
    reader = TokenReader(dataset)
    [part] = dataset.parts()
    table = pq.read_table(dataset.part_url(part))
    footer = json.loads(table.schema.metadata[b"speechmill"])
    footer["codec"]["revision"] = "other"  # with as many rows and frames
    changed = table.replace_schema_metadata({"speechmill": json.dumps(footer)})
    pq.write_table(changed, dataset.part_url(part))
    with pytest.raises(DatasetConflict, match=r"is a part of another dataset: revision is 'other'"):
        list(reader)
