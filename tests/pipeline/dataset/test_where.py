import json
import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.pipeline.dataset import where as module
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import InputError

DURATIONS = [0.5, 1.0, 2.5, 4.0, 8.0]
TEXTS = ["one", None, "three words here", "", "fünf"]
METADATA = [{"lang": "en", "snr": 10}, None, {"lang": "de", "snr": "?"}, {"lang": "en"}, [1]]
TABLE = pa.table(
    {
        "key": ["a", "b", "c", "d", "e"],
        "duration": DURATIONS,
        "num_frames": pa.array([25, 50, 125, 200, 400], pa.int32()),
        "audio_xxh3": pa.array([2**64 - 1, 1, 2, 3, 2**53 + 1], pa.uint64()),
        "text": TEXTS,
        "metadata": [None if each is None else json.dumps(each) for each in METADATA],
    }
)


def selected(text: str, table: pa.Table = TABLE) -> str:
    return "".join(Where(text).select(table)["key"].to_pylist())


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("duration > 1", "cde"),
        ("1 <= duration < 5 and num_frames != 125", "bd"),
        ("not duration > 1", "ab"),
        ('metadata.lang == "en"', "ad"),
        ('metadata["lang"] in ["de", "fr"] or text is None', "bc"),
        ("metadata is None", "b"),
        ("metadata[0] == 1", "e"),
        ("text is not None and len(text) > 3", "ce"),
        ("audio_xxh3 == 18446744073709551615", "a"),
        ("audio_xxh3 == 9007199254740992", ""),  # as a float it is equal to that of "e"
        ("channel is None", "abcde"),
        ("duration * 50 == num_frames", "abcde"),
        ("True", "abcde"),
        ("2 > 1 < duration < 4 > 3", "c"),
        ("start == 3 and False or key == 'a'", "a"),
    ],
)
def test_a_condition_selects_the_rows_for_which_it_is_true(text, keys):
    assert selected(text, TABLE.append_column("start", pa.array(range(5), pa.float64()))) == keys


def test_a_row_that_cannot_be_evaluated_is_not_selected():
    assert selected("metadata.snr > 3") == "a"
    assert selected("not metadata.snr > 3") == ""
    broken = TABLE.set_column(5, "metadata", pa.array(["{", "[" * 10**5, None, "{}", "NaN"]))
    assert selected("metadata.snr is None", broken) == "cde"
    assert selected("duration > 0 or metadata.snr is None", broken) == "cde"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("duraton > 1", "'duraton'; did you mean 'duration'"),
        ('lang == "en"', "metadata.lang"),
        ("len(codes) > 3", "'codes'"),
        ("text.lang == 'en'", "'text'"),
        ('duration > "1"', "duration .a number. is compared with '1' .a text."),
        ("text == 3", "text .a text. is compared"),
        ("'1' in duration", "compared"),
        ("duration in ['1', 2]", "compared"),
        ("duration = 1", "where is"),
        ("__import__('os')", "not allowed"),
        ("", "where is ''"),
    ],
)
def test_a_wrong_condition_is_refused_before_a_row_is_read(text, named):
    with pytest.raises(InputError, match=named):
        Where(text)


def test_a_condition_says_the_columns_it_needs():
    assert Where('metadata.duration > 1 and len(text) > 2 or key == "x"').columns == (
        "key",
        "text",
        "metadata",
    )
    assert Where("1 < duration").columns == ("duration",)


def test_a_condition_can_be_sent_to_the_workers_of_a_reader():
    where = pickle.loads(pickle.dumps(Where('duration > 1 and metadata.lang == "en"')))
    assert where.select(TABLE)["key"].to_pylist() == ["d"]


def test_equal_metadata_is_parsed_once(monkeypatch):
    parsed = []
    loads = json.loads
    monkeypatch.setattr(module.json, "loads", lambda text: parsed.append(text) or loads(text))
    rows = pa.table({"metadata": ['{"lang": "en"}', '{"lang": "de"}'] * 50})
    assert len(Where('metadata.lang == "en" and metadata.snr is None').select(rows)) == 50
    assert len(parsed) == 2


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_chunks_and_the_type_of_strings_do_not_matter(kind):
    chunks = pa.chunked_array([['{"a": 1}', None], [], ['{"a": 2}', '{"a": 1}']], pa.string())
    table = pa.table({"key": ["p", "q", "r", "s"], "metadata": chunks.cast(kind)})
    assert selected("metadata.a == 1", table) == "ps"
    assert selected("metadata.a == 1", table[:0]) == ""


@settings(deadline=None, max_examples=60)
@given(
    low=st.integers(-300, 2**40)
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False),
    sign=st.sampled_from(["<", "<=", ">", ">=", "==", "!="]),
    values=st.lists(st.floats(allow_nan=True) | st.just(7.0)),
)
def test_whole_columns_compare_as_single_values_do(low, sign, values):
    counts = [len(values), 0, 2**31 - 1][: len(values)]
    table = pa.table(
        {
            "duration": pa.array(values, pa.float64()),
            "num_frames": pa.array([*counts, *[3] * (len(values) - len(counts))], pa.int32()),
        }
    )
    for name in table.column_names:
        mask = Where(f"{name} {sign} {low!r}").mask(table)
        one_by_one = Where(f"({name} {sign} {low!r}) == True").mask(table)
        np.testing.assert_array_equal(mask, one_by_one)
