import numpy as np
import pytest

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality.transcript_errors import (
    ErrorCount,
    count_errors,
    text_normalizer,
    words,
)


def test_words_and_characters_that_differ_are_counted():
    found = count_errors("the cat sat down", "the cat sits")
    assert found["wer"] == ErrorCount(errors=2, total=4)  # sits for sat, no down
    assert found["cer"] == ErrorCount(errors=6, total=16)  # sits for `sat `, no down
    assert count_errors("yes", "")["cer"] == ErrorCount(errors=3, total=3)
    assert count_errors("no", "no no")["wer"].rate == 1.0


def test_counts_are_those_of_torchmetrics_over_all_clips():
    from torchmetrics.functional.text import char_error_rate, word_error_rate

    random = np.random.default_rng(0)
    texts, transcripts = (
        ["".join(random.choice(list("ab "), random.integers(1, 30))) + "c" for _ in range(40)]
        for _ in range(2)
    )
    counts = [count_errors(*pair) for pair in zip(texts, transcripts, strict=True)]
    for name, metric in (("wer", word_error_rate), ("cer", char_error_rate)):
        rate = sum(c[name].errors for c in counts) / sum(c[name].total for c in counts)
        assert rate == pytest.approx(float(metric(transcripts, texts)))


def test_the_errors_of_a_long_text_are_counted():
    text = "one two three four five " * 200
    found = count_errors(text, text.replace("three", "tree"))
    assert (found["wer"].errors, found["cer"].errors) == (200, 200)


def test_the_simple_normalizer_ignores_case_and_punctuation():
    assert words("One, two. THREE -- the driver's!") == "one two three the driver's"
    assert text_normalizer("simple") is words


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("I don\u2019t know.", "i don't know"),
        ("'Tis the drivers' day", "tis the drivers day"),
        ("हिन्दी में।", "हिन्दी में"),
        ("İstanbul", "istanbul"),
        ("nai\u0308ve cafe\u0301", "na\u00efve caf\u00e9"),
        ("ภาษาไทยที่นี่!", "ภาษาไทยที่นี่"),
        ("你好,世界。", "你好世界"),
        ("你好 iPhone", "你好 iphone"),
        ("ガ１２", "ガ12"),
        ("4,5 Straße_1", "4 5 strasse 1"),
        ("...'!", ""),
    ],
)
def test_the_simple_normalizer_keeps_the_letters_of_any_script(text, same):
    assert words(text) == same


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("The 15th of May", "the fifteenth of may"),
        ("Mr. Jones won't", "mister jones will not"),
        ("my favourite colour", "my favorite color"),
        ("Uh, twenty-five dollars", "$25"),
    ],
)
def test_whispers_english_normalizer_joins_spellings(text, same):
    normalize = text_normalizer("whisper_english")
    assert normalize(text) == normalize(same) == normalize(text).strip()
    assert words(text) != words(same)


def test_whispers_basic_normalizer_is_for_any_language():
    normalize = text_normalizer("whisper_basic")
    assert normalize("  «Straße», (lacht) früh um 7! ") == "straße früh um 7"


def test_an_unknown_normalizer_is_named():
    with pytest.raises(
        InputError, match=r"metrics\.normalizer is 'nemo'; use one of simple, whisp"
    ):
        text_normalizer("nemo")
