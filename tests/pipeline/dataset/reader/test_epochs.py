"""Every row comes once in an epoch, whoever reads it and whenever it stops."""

from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.dataset.reader import TokenReader, merge_states
from speechmill.pipeline.dataset.templates import PatternEncoder
from tests.token_parts import make_token_dataset

ROWS = [[3, 5, 2, 9], [4] * 7, [], [1, 2, 3, 7, 1], [6]]
ALL = [f"{part}-{row}" for part, rows in enumerate(ROWS) for row in range(len(rows))]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return make_token_dataset(str(tmp_path_factory.mktemp("out")), ROWS, rows_per_group=3)


@pytest.fixture(scope="module")
def ids(dataset):
    """The ids of every row, by its key."""
    pattern = make_pattern("flatten", (1024,) * 8)
    rows = list(TokenReader(dataset, columns=["key"]))
    return {row["key"]: pattern.encode(row["codes"].numpy()).tolist() for row in rows}


def keys(reader) -> list[str]:
    return [item["key"] for item in reader]


def readers(dataset, ranks, **settings) -> list[TokenReader]:
    return [TokenReader(dataset, rank=r, world_size=ranks, **settings) for r in range(ranks)]


def test_utterances_are_as_they_are_stored(dataset):
    table = pq.read_table(f"{dataset.root}/tokens", columns=["key", "codes", "text"])
    root = Path(dataset.root)
    items = list(TokenReader(root, columns=["text", "key"], shuffle_rows=5, read_ahead=0))
    found = {item["key"]: (item["codes"].flatten().tolist(), item["text"]) for item in items}
    assert {item["codes"].dtype for item in items} == {torch.uint16}
    assert found == {row["key"]: (row["codes"], row["text"]) for row in table.to_pylist()}


@settings(deadline=None, max_examples=10)
@given(ranks=st.integers(1, 30), seed=st.integers(0, 9), window=st.sampled_from([None, 1, 5, 99]))
def test_ranks_share_an_epoch_without_loss_and_differ_by_one_row(dataset, ranks, seed, window):
    shares = [keys(r) for r in readers(dataset, ranks, seed=seed, shuffle_rows=window)]
    assert sorted(key for share in shares for key in share) == sorted(ALL)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_the_order_depends_on_seed_and_epoch_and_not_on_the_number_of_ranks(dataset):
    reader = TokenReader(dataset, shuffle_rows=5)
    first = keys(reader)
    assert [key for r in readers(dataset, 3, shuffle_rows=5) for key in keys(r)] == first
    reader.set_epoch(1)
    assert first == keys(TokenReader(dataset, shuffle_rows=5)) != keys(reader)
    assert first != keys(TokenReader(dataset, shuffle_rows=5, seed=1))
    assert keys(TokenReader(dataset, shuffle_rows=None)) == ALL


@settings(deadline=None, max_examples=8)
@given(
    worlds=st.lists(st.integers(1, 4), min_size=2, max_size=3),
    stops=st.lists(st.integers(0, 9), min_size=12, max_size=12),
)
def test_an_epoch_goes_on_under_any_number_of_ranks(dataset, worlds, stops):
    state, found = None, []
    for turn, ranks in enumerate(worlds):
        states = []
        for rank, reader in enumerate(readers(dataset, ranks, shuffle_rows=5)):
            if state:
                reader.load_state_dict(state)
            last = turn == len(worlds) - 1
            found += keys(islice(reader, None if last else stops[turn * 4 + rank]))
            states.append(reader.state_dict())
        state = merge_states(states)
    assert sorted(found) == sorted(ALL)
    assert state["bases"] == [{"epoch": 1, "taken": {}}]


@settings(deadline=None, max_examples=8)
@given(
    worlds=st.lists(st.integers(1, 4), min_size=2, max_size=3),
    stops=st.lists(st.integers(0, 4), min_size=12, max_size=12),
    length=st.integers(8, 90),
)
def test_no_id_of_packed_rows_is_lost_or_doubled_under_any_number_of_ranks(
    dataset, ids, worlds, stops, length
):
    encoder = PatternEncoder(make_pattern("flatten", (1024,) * 8))
    state, found = None, []
    for turn, ranks in enumerate(worlds):
        states = []
        for rank in range(ranks):
            reader = TokenReader(dataset, encoder, length, rank=rank, world_size=ranks)
            if state:
                reader.load_state_dict(state)
            last = turn == len(worlds) - 1
            for item in islice(reader, None if last else stops[turn * 4 + rank]):
                found += item["input_ids"][item["document_ids"] >= 0].tolist()
            states.append(reader.state_dict())
        state = merge_states(states)
    assert sorted(found) == sorted(each for row in ids.values() for each in row)


@pytest.mark.parametrize("long", [None, "split", "cut", "drop"])
@settings(deadline=None, max_examples=4)
@given(stop=st.integers(0, 20))
def test_a_loaded_state_continues_at_the_next_item(dataset, long, stop):
    encoder = PatternEncoder(make_pattern("flatten", (1024,) * 8))
    packed = {"encoder": encoder, "sequence_length": 30, "long_documents": long} if long else {}

    def make():
        return TokenReader(dataset, until="never", **packed)

    whole, reader, again = list(islice(make(), 50)), make(), make()
    list(islice(reader, stop))
    again.load_state_dict(reader.state_dict())
    name = "input_ids" if packed else "codes"
    for item, expected in zip(islice(again, 50 - stop), whole[stop:], strict=True):
        assert item[name].tolist() == expected[name].tolist()


@pytest.mark.parametrize(("tail", "rows"), [("drop", 5), ("pad", 6)])
def test_a_tail_gives_every_rank_the_same_number_of_rows(dataset, tail, rows):
    shares = [keys(r) for r in readers(dataset, 3, tail=tail)]
    assert {len(share) for share in shares} == {rows}
    found = [key for share in shares for key in share]
    assert set(found) <= set(ALL)
    assert len(found) - len(set(found)) == (0 if tail == "drop" else 18 - len(ALL))


def test_only_rows_that_a_condition_selects_come(dataset, ids):
    where = 'metadata.lang == "en" and num_frames > 2'
    expected = [
        f"{part}-{row}"
        for part, rows in enumerate(ROWS)
        for row, frames in enumerate(rows)
        if row % 2 and frames > 2
    ]
    assert sorted(keys(TokenReader(dataset, where=where))) == expected
    encoder = PatternEncoder(make_pattern("flatten", (1024,) * 8))
    packed = TokenReader(dataset, encoder, 8, where=where)
    assert sum(len(item["input_ids"]) for item in packed) == sum(len(ids[key]) for key in expected)


@pytest.mark.parametrize("codec", ["null", "focalcodec-50hz"])
def test_rows_without_codes_are_rows(tmp_path, codec):
    frames = [0, 3, *[0] * 9, 2]
    dataset = make_token_dataset(str(tmp_path / "out"), [frames], codec=codec, rows_per_group=5)
    found = [len(item["codes"]) for item in TokenReader(dataset, shuffle_rows=None)]
    assert found == frames
