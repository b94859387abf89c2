from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.pipeline.dataset.reader.intervals import complement, counted, size, union
from speechmill.pipeline.dataset.reader.split import Split, Tail
from speechmill.pipeline.dataset.reader.state import (
    Base,
    Place,
    ReaderState,
    merge_states,
)
from speechmill.pipeline.errors import InputError

IDENTITY = {"tail": "keep", "datasets": [{"rows": 50}]}
SPLITS = st.tuples(st.integers(1, 5), st.integers(1, 2))


def positions(intervals) -> list[int]:
    return list(chain.from_iterable(range(*pair) for pair in intervals))


def consumers(ranks: int, workers: int) -> list[Split]:
    return [Split(r, ranks, w, workers) for r in range(ranks) for w in range(workers)]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30))))
def test_intervals_are_sets_of_positions(pairs):
    merged = union(pairs)
    inside = {p for pair in pairs for p in range(*pair)}
    assert positions(merged) == sorted(inside)
    assert positions(complement(merged, 30)) == sorted(set(range(30)) - inside)
    assert size(merged) == len(inside)
    assert positions(counted(merged, 3, 9)) == sorted(inside)[3:9]


@given(SPLITS, st.integers(0, 60), st.sampled_from(Tail))
def test_shares_are_equal_but_for_what_the_tail_says(counts, total, tail):
    shares = [positions(split.share([(5, 5 + total)], tail)) for split in consumers(*counts)]
    found, sizes = [p for share in shares for p in share], {len(share) for share in shares}
    wanted = list(range(5, 5 + total))
    count = len(shares)
    if tail == Tail.KEEP:
        assert found == wanted
        assert max(sizes) - min(sizes) <= 1
    elif tail == Tail.DROP:
        assert found == wanted[: total // count * count]
        assert len(sizes) == 1
    else:
        assert set(found) == set(wanted)
        assert sizes == {-(-total // count)}


@settings(max_examples=40)
@given(st.lists(SPLITS, min_size=1, max_size=4), st.data())
def test_states_merge_to_what_was_given_out_at_any_stop_under_any_split(counts, data):
    base, found = Base(0), {}
    for ranks, workers in counts:
        states = []
        for split in consumers(ranks, workers):
            place = Place(base.epoch)
            for _ in range(data.draw(st.integers(0, 2))):  # epochs that this one is ahead
                found.setdefault(place.epoch, []).extend(
                    positions(base.share(place.epoch, 50, split, Tail.KEEP))
                )
                place.epoch += 1
            share = positions(base.share(place.epoch, 50, split, Tail.KEEP))
            given_out = share[: data.draw(st.integers(0, len(share)))]
            found.setdefault(place.epoch, []).extend(given_out)
            place.position = given_out[-1] + 1 if given_out else 0
            states.append(ReaderState(IDENTITY, 0, [base], split, [place]).to_json())
        base = ReaderState.from_json(merge_states(data.draw(st.permutations(states)))).bases[0]
        for epoch, given_out in found.items():
            taken = positions(base.of(epoch).rows) if epoch >= base.epoch else list(range(50))
            assert sorted(given_out) == taken


EPOCH_2 = {"bases": [{"epoch": 2, "taken": {}}], "places": [{"epoch": 2}]}


def state(rank: int, ranks: int = 2, **changes) -> dict:
    saved = ReaderState(IDENTITY, 0, [Base(0)], Split(rank, ranks), [Place(0, 7)]).to_json()
    return saved | changes


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ([state(0)], "1 of 2 states are missing, first that of rank 1, worker 0"),
        ([state(0), state(0)], "rank 1"),
        ([state(0), state(1), state(1)], "3 states are given for 2 consumers"),
        ([state(0), state(1, ranks=3)], "2 ranks of 1 workers"),
        ([state(0), state(1, epoch=2, **EPOCH_2)], "epochs 0 and 2"),
        ([state(0), state(1, identity=IDENTITY | {"tail": "pad"})], "tail = 'pad'"),
        ([state(0), {"_steps_since_snapshot": 3}], "snapshot_every_n_steps=1"),
        ([{"model": [1, 2]}], "state of each rank"),
        ([state(0, speechmill_reader=9)], "version 9"),
        ([state(0, bases=[{"epoch": "x"}])], "not the state of a TokenReader"),
    ],
)
def test_states_that_are_not_those_of_all_consumers_are_refused(states, message):
    with pytest.raises(InputError, match=message):
        merge_states(states)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 9},  # a reader would look for its end without end
        {"epoch": -1, "bases": [{"epoch": -1, "taken": {}}]},
        {"bases": [{"epoch": 0, "taken": {"0": {"rows": [[5, 51]], "offsets": {}}}}]},
        {"bases": [{"epoch": 0, "taken": {"0": {"rows": [[-5, 3]], "offsets": {}}}}]},
        {"bases": [{"epoch": 1, "taken": {}}]},  # after the place
        {"identity": {"datasets": [{"rows": 50}]}},
    ],
)
def test_a_state_of_places_that_cannot_be_is_refused(change):
    state = ReaderState(IDENTITY, 0, [Base(0)], Split(0, 1), [Place(0)]).to_json()
    assert merge_states([state])
    with pytest.raises(InputError, match="this is not the state of a TokenReader"):
        merge_states([state | change])
