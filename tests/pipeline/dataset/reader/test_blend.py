from collections import Counter
from itertools import islice

import pytest

from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.dataset.reader import TokenReader, merge_states
from speechmill.pipeline.dataset.templates import PatternEncoder
from speechmill.pipeline.errors import InputError
from tests.token_parts import make_token_dataset

LONG, SHORT = 5, 2  # frames of the rows of the two datasets


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    big = make_token_dataset(f"{folder}/big", [[LONG] * 30, [LONG] * 30], rows_per_group=9)
    return big, make_token_dataset(f"{folder}/small", [[SHORT] * 10], rows_per_group=3)


def frames(items) -> list[int]:
    return [len(item["codes"]) for item in items]


def keys(items) -> list[tuple]:
    return [(len(item["codes"]), item["key"]) for item in items]


@pytest.mark.parametrize("weights", [(0.9, 0.1), (3, 1), (1, 5)])
def test_every_stretch_of_rows_has_the_weights(both, weights):
    reader = TokenReader(list(zip(both, weights, strict=True)), until="never")
    found = frames(islice(reader, 300))
    for stop in range(1, 301):
        wanted = stop * weights[0] / sum(weights)
        assert abs(found[:stop].count(LONG) - wanted) <= 1.01


def test_packed_rows_have_the_weights_in_ids(both):
    encoder = PatternEncoder(make_pattern("flatten", (1024,) * 8))
    reader = TokenReader([(both[0], 1), (both[1], 1)], encoder, 400, until="never")
    lengths = Counter(
        length
        for item in islice(reader, 20)
        for length in item["cu_seqlens"].diff().tolist()[1:-1]  # whole documents
    )
    assert 0.8 < lengths[LONG * 8] * LONG / (lengths[SHORT * 8] * SHORT) < 1.25


def test_an_epoch_ends_with_the_first_dataset_or_when_all_were_read(both):
    weighted = [(both[0], 1), (both[1], 1)]
    first = frames(TokenReader(weighted))
    assert first.count(SHORT) == 10
    assert abs(first.count(LONG) - 10) <= 1
    every = keys(TokenReader(weighted, until="all"))
    counts = Counter(every)
    assert [count for (length, _), count in counts.items() if length == LONG] == [1] * 60
    assert {count for (length, _), count in counts.items() if length == SHORT} <= {5, 6, 7}
    assert len(counts) == 70


@pytest.mark.parametrize("packed", [False, True])
def test_a_loaded_state_continues_a_blend_at_the_next_item(both, packed):
    encoder = PatternEncoder(make_pattern("flatten", (1024,) * 8))
    arguments = (encoder, 50) if packed else ()
    name = "input_ids" if packed else "codes"

    def reader():
        return TokenReader([(both[0], 2), (both[1], 1)], *arguments, until="never", shuffle_rows=20)

    whole = [item[name].tolist() for item in islice(reader(), 120)]
    for stop in (0, 1, 17, 64):
        stopped, again = reader(), reader()
        list(islice(stopped, stop))
        again.load_state_dict(stopped.state_dict())
        assert [i[name].tolist() for i in islice(again, 120 - stop)] == whole[stop:]


def test_a_blend_goes_on_under_another_number_of_ranks(both):
    def readers(ranks):
        weighted = [(both[0], 4), (both[1], 1)]
        return [TokenReader(weighted, rank=r, world_size=ranks, until="all") for r in range(ranks)]

    found, states = [], []
    for reader, stop in zip(readers(3), (5, 11, 0), strict=True):
        found += keys(islice(reader, stop))
        states.append(reader.state_dict())
    state = merge_states(states)
    for reader in readers(2):
        reader.load_state_dict(state)
        found += keys(reader)
    counts = Counter(found)
    assert [count for (length, _), count in counts.items() if length == LONG] == [1] * 60
    assert len(counts) == 70


def test_a_worker_without_rows_of_a_dataset_that_must_begin_again_is_named(both):
    reader = TokenReader([(both[0], 1), (both[1], 1)], rank=0, world_size=20, until="never")
    with pytest.raises(InputError, match="small: worker 0 of 20 has no rows of it in 8 epochs"):
        list(islice(reader, 100))


def test_a_dataset_whose_documents_are_all_too_long_is_named(both):
    encoder = PatternEncoder(make_pattern("flatten", (1024,) * 8))
    weighted = [(both[0], 1), (both[1], 1)]
    reader = TokenReader(weighted, encoder, 30, until="never", long_documents="drop")
    with pytest.raises(InputError, match=r"big: worker 0 of 1 has no rows .* longer than a"):
        list(islice(reader, 1000))


def test_only_ids_that_are_kept_count_for_the_weights(both):
    encoder = PatternEncoder(make_pattern("flatten", (1024,) * 8))
    weighted = [(both[0], 1), (both[1], 1)]
    reader = TokenReader(weighted, encoder, SHORT * 8, until="never", long_documents="cut")
    kept = Counter(item["document_ids"].tolist().count(0) for item in islice(reader, 100))
    assert kept == {SHORT * 8: 100}  # a document of each dataset by turns
    state = reader.state_dict()["places"]
    assert abs(state[0]["given"] - state[1]["given"]) <= SHORT * 8


def test_many_epochs_of_which_little_is_left_go_on_under_more_ranks(both):
    def readers(ranks):
        return [TokenReader(both[1], rank=r, world_size=ranks, until="never") for r in range(ranks)]

    ahead, behind = readers(2)
    found = Counter(item["key"] for item in islice(ahead, 48))  # of 10 epochs, whose rest is left
    state = merge_states([ahead.state_dict(), behind.state_dict()])
    for reader in readers(8):
        reader.load_state_dict(state)
        iterator = iter(reader)
        while reader.state_dict()["places"][0]["epoch"] < 10:
            found[next(iterator)["key"]] += 1
    assert set(found.values()) <= {10, 11}  # one row of the next epoch was taken by some
