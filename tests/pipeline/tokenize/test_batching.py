from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.tokenize.batching import Batcher, BatchSettings

RATE = 100
lengths = st.lists(st.integers(1, 5000), max_size=120)


def clips(sizes):
    return [
        SimpleNamespace(index=i, start=0.0, audio_T=range(size), text=None, metadata=None)
        for i, size in enumerate(sizes)
    ]


def make_batches(clips, **settings):
    batcher = Batcher(BatchSettings(**{"seconds": 40.0, "window_seconds": 200.0} | settings), RATE)
    for clip in clips:
        yield from batcher.add(clip)
    yield from batcher.finish()


def batches(sizes, **settings):
    return list(make_batches(clips(sizes), **settings))


@given(lengths)
def test_every_clip_comes_once(sizes):
    seen = [clip.index for batch in batches(sizes) for clip in batch]
    assert sorted(seen) == list(range(len(sizes)))


@given(lengths)
def test_padded_seconds_stay_within_the_budget_but_for_a_lone_long_clip(sizes):
    for batch in batches(sizes):
        padded = len(batch) * max(len(clip.audio_T) for clip in batch)
        assert padded <= 40 * RATE or len(batch) == 1


def test_clips_of_similar_length_share_a_batch():
    padding = 0
    for batch in batches([100, 900] * 20, window_seconds=400.0):
        padding += sum(len(batch[-1].audio_T) - len(clip.audio_T) for clip in batch)
    assert padding == 0


def test_no_more_than_a_window_of_audio_is_read_ahead():
    taken = []

    def source():
        for clip in clips([1000] * 100):
            taken.append(clip)
            yield clip

    next(make_batches(source()))
    assert len(taken) <= 21


@pytest.mark.parametrize(("seconds", "window"), [(0.0, 10.0), (-1.0, 10.0), (20.0, 10.0)])
def test_a_budget_that_cannot_be_kept_is_refused(seconds, window):
    with pytest.raises(InputError, match=r"batch\.seconds"):
        BatchSettings(seconds, window)
