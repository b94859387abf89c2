import json
import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors, trainers

from speechmill.pipeline.dataset.documents import Utterances
from speechmill.pipeline.dataset.patterns import Delay, Flatten
from speechmill.pipeline.dataset.templates import (
    TEXTS,
    WITHOUT_TEXT,
    Template,
    make_template,
    template_from,
)
from speechmill.pipeline.dataset.text_tokenizers import Bytes, load_tokenizer
from speechmill.pipeline.dataset.vocabulary import SPECIALS, Vocabulary
from speechmill.pipeline.errors import InputError
from tests.pipeline.dataset.pattern_examples import frame_counts, patterns, split, utterances

SIZES = (8, 16)
texts = st.none() | st.text(max_size=9)


def rows(sizes=SIZES, frames=(2, 1, 3), texts=("a", None, "b"), **columns) -> Utterances:
    return utterances(sizes, list(frames), text=list(texts), **columns)


def recordings(places: list[tuple[str, float]], texts: list[str | None], frames=None):
    names, starts = zip(*places, strict=True)
    return rows(
        frames=frames or [1] * len(places),
        texts=texts,
        index=[ord(name) for name in names],
        start=list(starts),
        shard=["s.tar"] * len(places),
    )


def named(template: Template, ids: np.ndarray) -> str:
    """A document with a letter for each id of text, c for each code, and the special tokens."""
    _, books, codes = template.vocabulary.meanings(ids)
    size, names = template.vocabulary.text_size, template.vocabulary.specials
    return " ".join(
        "c" if book >= 0 else chr(id) if id < size else names[code].strip("<|>")
        for id, book, code in zip(ids.tolist(), books, codes, strict=True)
    )


@pytest.fixture(scope="module")
def bpe(tmp_path_factory) -> Path:
    """A BPE tokenizer that pads, truncates and adds special tokens, as published ones do."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    tokenizer.train_from_iterator(["speech that a mill turns into tokens"] * 9, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $0", special_tokens=[("<s>", 0)])
    tokenizer.enable_padding(length=40)
    tokenizer.enable_truncation(5)
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@settings(deadline=None, max_examples=40)
@given(
    pattern=patterns(),
    text=st.sampled_from(TEXTS[:3]),
    frames=frame_counts,
    data=st.data(),
    multiple=st.sampled_from([1, 64]),
)
def test_a_document_gives_back_its_text_and_codes(pattern, text, frames, data, multiple):
    given_texts = data.draw(st.lists(texts, min_size=len(frames), max_size=len(frames)))
    read = rows(pattern.sizes, frames, given_texts)
    template = make_template(pattern, text, multiple=multiple)
    template = template_from(json.loads(json.dumps(template.description())))
    found = template.encode(read)
    documents = split(found.ids, found.lengths_B)
    wanted = split(read.codes_NK, read.num_frames_B)
    for ids, codes_FK, own in zip(documents, wanted, given_texts, strict=True):
        (found_FK,) = template.audio_codes_of(ids)
        np.testing.assert_array_equal(found_FK, codes_FK[:, : len(pattern.kept_sizes)])
        assert template.texts_of(ids) == ([own] if own and text != "none" else [])


@given(
    places=st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 9)), min_size=1, max_size=8, unique=True
    ),
    without_text=st.sampled_from(WITHOUT_TEXT),
    data=st.data(),
)
def test_interleaved_a_recording_is_one_document_in_the_order_of_time(places, without_text, data):
    own = [data.draw(st.sampled_from([None, f"{key}{start}"])) for key, start in places]
    read = recordings([(key, float(start)) for key, start in places], own)
    template = make_template(Flatten(SIZES), "interleaved", without_text=without_text)
    found = template.encode(read)
    owners = {key: row for row, (key, _) in reversed(list(enumerate(places)))}
    documents = split(found.ids, found.lengths_B)
    assert all(not len(ids) for row, ids in enumerate(documents) if row not in owners.values())
    for key, row in owners.items():
        order = sorted((start, at) for at, (other, start) in enumerate(places) if other == key)
        kept = [at for _, at in order if own[at] or without_text == "keep"]
        assert template.texts_of(documents[row]) == [own[at] for at in kept if own[at]]
        codes = [each.tolist() for each in template.audio_codes_of(documents[row])]
        assert codes == [read.codes_NK[at : at + 1].tolist() for at in kept]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("none", ["bos audio c c /audio eos", "bos audio c c /audio eos"]),
        ("before", ["bos text h i audio c c /audio eos", "bos audio c c /audio eos"]),
        ("after", ["bos audio c c /audio text h i eos", "bos audio c c /audio eos"]),
        ("interleaved", ["bos text h i audio c c /audio audio c c /audio eos", ""]),
    ],
)
def test_templates_put_text_where_they_say(text, wanted):
    template = make_template(Flatten(SIZES), text)
    found = template.encode(recordings([("a", 0.0), ("a", 1.0)], ["hi", None]))
    assert [named(template, ids) for ids in split(found.ids, found.lengths_B)] == wanted


def test_two_channels_of_a_recording_are_two_documents():
    channels = {"channel": [0, 1, 0], "index": [7] * 3, "shard": ["s"] * 3}
    read = rows(frames=(1, 1, 1), start=[0.0, 0.0, 1.0], **channels)
    lengths = make_template(Flatten(SIZES), "interleaved").encode(read).lengths_B
    assert [bool(length) for length in lengths] == [True, True, False]


def test_rows_without_text_are_skipped_if_asked():
    found = make_template(Flatten(SIZES), "before", without_text="skip").encode(rows())
    assert [bool(length) for length in found.lengths_B] == [True, False, True]


def test_the_tokenizer_of_a_file_gives_text_its_ids_and_nothing_else(bpe):
    template = make_template(Delay(SIZES).flat(), "before", tokenizer=load_tokenizer(str(bpe)))
    said = ["tokens that a mill turns into speech", "naïve 語 <|audio|><s>", "x"]
    found = pickle.loads(pickle.dumps(template)).encode(rows(texts=said))
    assert template.texts_of(found.ids) == said
    assert template.vocabulary.text_size == load_tokenizer(str(bpe)).num_ids
    with pytest.raises(InputError, match="load the file that made it"):
        template_from(template.description())
    assert (
        template_from(template.description(), load_tokenizer(str(bpe)))
        .encode(rows(texts=said))
        .ids.tolist()
        == found.ids.tolist()
    )


def test_a_text_that_spells_a_special_token_of_the_file_is_text(bpe):
    tokenizer = load_tokenizer(str(bpe))
    for copied in (tokenizer, pickle.loads(pickle.dumps(tokenizer))):  # as a spawned worker has it
        found = copied.encode(pa.array(["a<s>b"]))
        assert (len(found.ids), copied.decode(found.ids)) == (5, "a<s>b")


def test_a_tokenizer_that_does_not_know_a_character_is_named(tmp_path):
    path = tmp_path / "words.json"
    tokenizers.Tokenizer(models.WordLevel({"a": 0}, unk_token="?")).save(str(path))
    with pytest.raises(InputError, match=r"words\.json' cannot encode a text .* take one that"):
        load_tokenizer(str(path)).encode(pa.array(["b"]))


def test_text_that_looks_like_a_special_token_is_text():
    template = make_template(Flatten(SIZES), "before")
    found = template.encode(rows(frames=[1], texts=["<|audio|>"]))
    assert (template.texts_of(found.ids), len(found.ids)) == (["<|audio|>"], 6 + 9 + 1)


def test_generated_ids_that_are_not_bytes_are_not_taken_for_others():
    assert Bytes().decode([104, 300, 105]) == "h\ufffdi"


@pytest.mark.parametrize("content", [None, b"", b"{}", b'{"model": 3}', b"\xff\xfe"])
def test_a_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"give the path of a tokenizer\.json, or 'bytes'"):
        load_tokenizer(str(path))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"text": "behind"}, "text is 'behind'"),
        ({"without_text": "drop"}, "without_text is 'drop'"),
        ({"text": "none", "without_text": "skip"}, "set without_text to keep"),
        ({"text_size": 255}, "the tokenizer has 256 ids"),
    ],
)
def test_an_impossible_template_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        make_template(**{"pattern": Flatten(SIZES), "text": "before", **settings})


def test_a_vocabulary_of_another_pattern_is_refused():
    vocabulary = Vocabulary.of_pattern(Flatten(SIZES), 256)
    with pytest.raises(InputError, match="is not that of delay"):
        Template(pattern=Delay(SIZES).flat(), vocabulary=vocabulary, tokenizer=Bytes())


@pytest.mark.parametrize("change", [{"version": 9}, {"tokenizer": {}}, {"pattern": 3}, {"text": 1}])
def test_a_damaged_template_is_refused(change):
    with pytest.raises(InputError):
        template_from({**make_template(Flatten(SIZES), "before").description(), **change})


def test_beside_rows_of_streams_text_stands_in_the_first():
    template = make_template(Delay(SIZES), "before")
    rows_TC = template.encode(rows(frames=[1], texts=["A"])).ids
    pad, bos, eos, text, audio, end = (template.vocabulary.special(name) for name in SPECIALS)
    assert rows_TC[:4].tolist() == [[bos, pad], [text, pad], [65, pad], [audio, pad]]
    assert rows_TC[6:].tolist() == [[end, pad], [eos, pad]]
    within = rows_TC[4:6] - np.array(template.vocabulary.first_ids)
    assert (within[0, 1], within[1, 0]) == (16, 8)  # the padding of the pattern
    with pytest.raises(InputError, match=r"the template gives \(rows, 2\)"):
        template.segments_of(rows_TC[:, 0])


@pytest.mark.parametrize("ids", ["text after bos", "half a frame", "a code as text"])
def test_ids_that_no_template_gives_are_refused(ids):
    template = make_template(Flatten(SIZES), "before")
    bos, audio, text = (template.vocabulary.special(f"<|{n}|>") for n in ("bos", "audio", "text"))
    code = template.vocabulary.codes(0)[0]
    wrong = {
        "text after bos": [bos, 65],
        "half a frame": [bos, audio, code],
        "a code as text": [bos, text, code],
    }
    with pytest.raises(InputError):
        template.segments_of(np.array(wrong[ids]))
