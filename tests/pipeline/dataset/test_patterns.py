import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.pipeline.dataset.patterns import (
    CoarseFine,
    Delay,
    Flatten,
    Groups,
    Parallel,
    Pattern,
    Semantic,
    make_pattern,
    pattern_from,
)
from speechmill.pipeline.errors import InputError
from tests.pipeline.dataset.pattern_examples import frame_counts, patterns, split, utterances

CODES_FK = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])


@given(pattern=patterns(), frames=frame_counts)
def test_every_pattern_can_be_undone_from_its_description(pattern, frames):
    codes = utterances(pattern.sizes, frames)
    again = pattern_from(json.loads(json.dumps(pattern.description())))
    for codes_FK in split(codes.codes_NK, codes.num_frames_B):
        found_FK = again.decode(pattern.encode(codes_FK))
        np.testing.assert_array_equal(found_FK, codes_FK[:, : len(pattern.kept_sizes)])


@given(pattern=patterns(), frames=frame_counts)
def test_many_utterances_at_once_give_what_each_gives_alone(pattern, frames):
    codes = utterances(pattern.sizes, frames)
    found = pattern.encode_batch(codes.codes_NK, codes.num_frames_B)
    alone = [pattern.encode(each) for each in split(codes.codes_NK, codes.num_frames_B)]
    assert found.lengths_B.tolist() == [len(each) for each in alone]
    assert (found.ids.dtype, found.ids.ndim) == (np.int32, 1 + (pattern.streams is not None))
    for ids, wanted in zip(split(found.ids, found.lengths_B), alone, strict=True):
        np.testing.assert_array_equal(ids, wanted)


@given(pattern=patterns(), num_frames=st.integers(0, 9))
def test_an_id_is_of_one_codebook_and_below_the_number_of_ids(pattern, num_frames):
    codes = utterances(pattern.sizes, [num_frames])
    ids, books = pattern.encode(codes.codes_NK), pattern.codebooks(num_frames)
    assert ids.shape == books.shape
    within = ids - np.array(pattern.first_ids)[books]
    assert ((within >= 0) & (within < np.array(pattern.kept_sizes)[books] + pattern.pads)).all()
    assert (ids < pattern.num_ids).all()


@given(pattern=patterns(), num_frames=st.integers(0, 9), data=st.data())
def test_an_array_is_undone_only_if_the_pattern_gives_it(pattern, num_frames, data):
    array = pattern.encode(utterances(pattern.sizes, [num_frames]).codes_NK)
    damaged = array[: data.draw(st.integers(0, len(array)))].copy()
    if damaged.size:
        at = data.draw(st.integers(0, damaged.size - 1))
        damaged.reshape(-1)[at] = data.draw(st.integers(-1, pattern.num_ids))
    try:
        found_FK = pattern.decode(damaged)
    except InputError:
        return
    full_FK = np.zeros((len(found_FK), len(pattern.sizes)), np.int32)
    full_FK[:, : found_FK.shape[1]] = found_FK
    np.testing.assert_array_equal(pattern.encode(full_FK), damaged)


def test_delay_has_the_layout_of_musicgen():
    rows_TK = Delay((10, 20, 30)).encode(CODES_FK)
    assert rows_TK.tolist() == [[1, 20, 30], [4, 2, 30], [7, 5, 3], [10, 8, 6], [10, 20, 9]]


@pytest.mark.parametrize(
    ("pattern", "wanted"),
    [
        (Parallel((10, 20, 30)), CODES_FK.tolist()),
        (Parallel((10, 20, 30)).flat(), [1, 12, 33, 4, 15, 36, 7, 18, 39]),
        (Flatten((10, 20, 30)), [1, 12, 33, 4, 15, 36, 7, 18, 39]),
        (make_pattern("codebook-major", (10, 20, 30)), [1, 4, 7, 12, 15, 18, 33, 36, 39]),
        (CoarseFine((10, 20, 30), coarse=2), [1, 12, 4, 15, 7, 18, 33, 36, 39]),
        (Semantic((10, 20, 30)), [1, 4, 7]),
        (Groups((10, 20, 30), frames=2), [[1, 2, 3, 4, 5, 6], [7, 8, 9, 10, 20, 30]]),
        (Delay((10, 20, 30), shifts=(1, 0, 1)), [[10, 2, 30], [1, 5, 3], [4, 8, 6], [7, 20, 9]]),
        (
            Delay((10, 20, 30), shifts=(1, 0, 0)).flat(),
            [10, 13, 35, 1, 16, 38, 4, 19, 41, 7, 31, 62],
        ),
    ],
    ids=lambda each: each.name if isinstance(each, Pattern) else "",
)
def test_patterns_arrange_codes_as_their_papers_say(pattern, wanted):
    assert pattern.encode(CODES_FK).tolist() == wanted


@pytest.mark.parametrize(
    ("name", "sizes", "settings", "message"),
    [
        ("zigzag", (8, 8), {}, "pattern is 'zigzag'; use one of flatten"),
        ("flatten", (8, 0), {}, "codebook sizes are"),
        ("flatten", (), {}, "codebook sizes are"),
        ("flatten", 1024, {}, r"codebook sizes are 1024; give a list, such as \[1024\]"),
        ("flatten", (2**31 - 1,), {}, "31 bits"),
        ("flatten", (8, 8), {"shifts": [0, 1]}, "flatten has no shifts"),
        ("delay", (8, 8), {"shifts": [0, 1, 2]}, "not 2 numbers"),
        ("delay", (8, 8), {"shifts": [0, -1]}, "not 2 numbers"),
        ("delay", (8, 8), {"shifts": 1}, "shifts 1 are not 2 numbers"),
        ("delay", (8, 8), {"shifts": [0, 10**9]}, "not 2 numbers"),
        ("coarse-fine", (8,), {}, "at least one coarse and one fine"),
        ("coarse-fine", (8, 8), {"coarse": 2}, "coarse is 2"),
        ("groups", (8, 8), {"frames": 0}, "frames is 0"),
    ],
)
def test_a_pattern_that_does_not_fit_the_codebooks_is_refused(name, sizes, settings, message):
    with pytest.raises(InputError, match=message):
        make_pattern(name, sizes, **settings)


@pytest.mark.parametrize(
    ("codes_FK", "message"),
    [
        (np.zeros((3, 8), int), "codebooks of the dataset"),
        (np.zeros(6, int), "do not fit delay"),
        (np.array([[0, 1], [3, 20]]), r"code 20 of codebook 1 in frame 1 is not in 0\.\.19"),
        (np.array([[0, -1]]), "code -1 of codebook 1"),
        (np.array([[0.0, 1.0]]), "give whole numbers"),
    ],
)
def test_codes_that_do_not_fit_a_pattern_are_refused(codes_FK, message):
    with pytest.raises(InputError, match=message):
        Delay((10, 20)).encode(codes_FK)


@pytest.mark.parametrize(
    ("pattern", "array", "message"),
    [
        (Flatten((10, 20)), [1, 12, 3], "3 ids are not an output of flatten: it gives a multiple"),
        (Flatten((10, 20)), [12, 1], "12 at 0"),
        (Delay((10, 20)), [[1, 2], [10, 3]], r"2 at \(0, 1\)"),
        (Delay((10, 20), shifts=(0, 3)), [[1, 20]], "at least 3 of them"),
        (Delay((10, 20)), [1, 2], r"give whole numbers of shape \(1, 2\)"),
        (Groups((10, 20)), [[1, 2, 10, 20], [3, 4, 5, 6]], "not an output of groups"),
        (Groups((10, 20)), [[10, 20, 10, 20]], "only the last padded"),
        (Parallel((10, 20)), [[0.5, 1.0]], "float64"),
    ],
)
def test_an_array_of_another_pattern_is_refused(pattern, array, message):
    with pytest.raises(InputError, match=message):
        pattern.decode(np.array(array))


@pytest.mark.parametrize("description", [None, "abc", [], [[1, 2, 3]], {}])
def test_what_is_not_a_description_is_refused(description):
    with pytest.raises(InputError, match="is not the description of a pattern"):
        pattern_from(description)


@pytest.mark.parametrize(
    "change",
    [
        {"name": "zigzag"},
        {"version": 2},
        {"codebook_sizes": "abc"},
        {"codebook_sizes": None},
        {"frames": 2},
        {"shifts": 3},
        {"flattened": "yes"},
        {"name": ["delay"]},
    ],
)
def test_a_damaged_description_is_refused(change):
    with pytest.raises(InputError):
        pattern_from({**Delay((10, 20)).description(), **change})
