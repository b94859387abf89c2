"""What is fetched ahead is what is read, and never much more than that."""

import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.pipeline import read_ahead
from speechmill.pipeline.errors import StorageUnavailable
from speechmill.pipeline.read_ahead import ReadAhead, count_ranges

SIZE = 1000


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch):
    monkeypatch.setattr(read_ahead, "RANGE_BYTES", 80)
    monkeypatch.setattr(read_ahead, "_FIRST_BYTES", 10)


class Fetches:
    """Remembers which ranges were asked for; they come when `released`, at once by default."""

    def __init__(self, released: bool = True):
        self.asked: list[tuple[int, int]] = []
        self.release = threading.Event()
        if released:
            self.release.set()

    def __call__(self, start: int, end: int) -> bytes:
        self.asked.append((start, end))
        assert self.release.wait(10)
        return bytes(position % 251 for position in range(start, end))


@settings(max_examples=50)
@given(positions=st.lists(st.integers(0, SIZE - 1), max_size=20))
def test_the_range_of_any_position_holds_its_byte(positions):
    ahead = ReadAhead(Fetches(), SIZE)
    for position in positions:
        taken = ahead.take(position)
        assert taken.start <= position < taken.end <= SIZE
        assert taken.data.result()[position - taken.start] == position % 251


def test_reading_from_front_to_back_fetches_each_byte_once():
    fetches = Fetches()
    ahead, position = ReadAhead(fetches, SIZE), 0
    while position < SIZE:
        taken = ahead.take(position)
        assert (taken.start, len(taken.data.result())) == (position, taken.end - position)
        position = taken.end
    assert sorted(fetches.asked)[0][0] == 0
    assert sum(end - start for start, end in fetches.asked) == SIZE
    assert len(fetches.asked) == count_ranges(SIZE)


def test_more_ranges_are_fetched_at_once_while_the_reader_waits_up_to_a_bound():
    fetches = Fetches(released=False)
    ahead, position, at_once = ReadAhead(fetches, 10 * SIZE), 0, []
    for _ in range(12):
        position = ahead.take(position).end
        at_once.append(len(ahead._begun))
    fetches.release.set()
    assert at_once[:3] == [4, 5, 6]
    assert set(at_once[3:]) == {6}


def test_the_first_ranges_are_short_and_each_is_twice_as_long_as_the_one_before():
    ahead, position, lengths = ReadAhead(Fetches(), SIZE), 0, []
    while position < SIZE:
        taken = ahead.take(position)
        lengths.append(taken.end - taken.start)
        position = taken.end
    assert lengths == [10, 20, 40, *[80] * 11, 50]


def test_after_a_jump_one_short_range_is_fetched_first():
    fetches = Fetches()
    ahead = ReadAhead(fetches, SIZE)
    ahead.take(0).data.result()
    taken = ahead.take(700)
    assert (taken.start, taken.end) == (700, 710)


def test_the_error_of_a_range_reaches_only_who_reads_it():
    def fetch(start: int, end: int) -> bytes:
        if start >= 30:
            raise StorageUnavailable("gone")
        return b"x" * (end - start)

    ahead = ReadAhead(fetch, SIZE)
    assert [len(ahead.take(at).data.result()) for at in (0, 10)] == [10, 20]
    with pytest.raises(StorageUnavailable, match="gone"):
        ahead.take(30).data.result()
