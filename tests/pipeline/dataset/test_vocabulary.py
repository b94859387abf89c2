import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechmill.pipeline.dataset.vocabulary import (
    SPECIALS,
    IdKind,
    Vocabulary,
    vocabulary_from,
)
from speechmill.pipeline.errors import InputError

vocabularies = st.builds(
    Vocabulary,
    text_size=st.integers(0, 50),
    codebook_sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5).map(tuple),
    pads=st.booleans(),
    multiple=st.sampled_from([1, 8, 64]),
)


@given(vocabulary=vocabularies)
def test_every_id_means_one_thing(vocabulary):
    kinds, books, codes = vocabulary.meanings(np.arange(vocabulary.num_ids))
    assert (vocabulary.num_ids % vocabulary.multiple, len(kinds)) == (0, vocabulary.num_ids)
    assert (kinds == IdKind.TEXT).sum() == vocabulary.text_size
    for place, name in enumerate(SPECIALS):
        at = vocabulary.special(name)
        assert (kinds[at], codes[at]) == (IdKind.SPECIAL, place)
    for book, size in enumerate(vocabulary.codebook_sizes):
        ids = np.flatnonzero((kinds == IdKind.CODE) & (books == book))
        assert ids.tolist() == list(vocabulary.codes(book))
        assert codes[ids].tolist() == list(range(size))
    padding = books[kinds == IdKind.PADDING].tolist()
    assert padding == (list(range(len(vocabulary.codebook_sizes))) if vocabulary.pads else [])


@given(vocabulary=vocabularies)
def test_a_vocabulary_is_rebuilt_from_its_json(vocabulary):
    assert vocabulary_from(json.loads(json.dumps(vocabulary.description()))) == vocabulary


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"text_size": -1},
        {"text_size": "many"},
        {"codebook_sizes": [4]},
        {"codebook_sizes": None},
        {"codebook_sizes": [8, 0]},
        {"pads": 1},
        {"specials": {"<|pad|>": 0}},
        {"num_ids": 7},
        {"multiple": 0},
    ],
)
def test_a_damaged_vocabulary_is_refused(change):
    vocabulary = Vocabulary(text_size=256, codebook_sizes=(8, 8))
    with pytest.raises(InputError):
        vocabulary_from({**vocabulary.description(), **change})


def test_an_id_outside_the_vocabulary_is_refused():
    with pytest.raises(InputError, match=r"id 22 is not in the vocabulary, 0\.\.21"):
        Vocabulary(text_size=0, codebook_sizes=(8, 8)).meanings(np.array([[0, 22]]))


def test_ids_that_are_not_whole_numbers_are_refused():
    with pytest.raises(InputError, match="ids are float64; give whole numbers"):
        Vocabulary(text_size=0, codebook_sizes=(8, 8)).meanings(np.array([0.5]))
