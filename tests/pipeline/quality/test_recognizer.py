"""The options of a speech recognizer, with a tiny Whisper and a tiny CTC model."""

import numpy as np
import pytest

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.speech import speech_recognizer
from tests.jobs.commands.tiny_models import save_ctc, save_english_whisper


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whisper")
    save_english_whisper(folder)
    return str(folder)


AUDIO = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)


def test_options_reach_the_generation(whisper):
    assert len(speech_recognizer(whisper, "cpu")(AUDIO)) > 3
    assert len(speech_recognizer(whisper, "cpu", {"max_new_tokens": 3})(AUDIO)) == 3


@pytest.mark.parametrize("options", [{"language": "en"}, {"task": "transcribe"}, {"langage": "en"}])
def test_options_that_the_model_does_not_take_are_named_with_the_cure(whisper, options):
    with pytest.raises(InputError, match=r"which .*leave out what it does not take") as raised:
        speech_recognizer(whisper, "cpu", options)
    assert f"metrics.recognizer_options is {options}" in str(raised.value)


def test_a_model_that_does_not_generate_has_no_options(tmp_path):
    save_ctc(tmp_path)
    with pytest.raises(InputError, match="it does not generate its text"):
        speech_recognizer(str(tmp_path), "cpu", {"language": "en"})


def test_a_function_has_no_options():
    with pytest.raises(InputError, match="is a function; leave the options out"):
        speech_recognizer("tests.quality_scores:peak", "cpu", {"language": "en"})
