"""Compiled codecs: rows are lengthened to a few widths, and that changes no token."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from speechmill.codecs import InvalidConfig, codec_info, load_codec
from speechmill.codecs.batch_runner import bucket
from tests.codecs.dualcodec.goldens import WEIGHTS
from tests.codecs.focalcodec.small import CONFIGS
from tests.codecs.hasrd.small import CONFIGS as HASRD
from tests.codecs.simwhisper.golden import CONFIG
from tests.codecs.speech import padded, speech

CODECS: dict[str, dict[str, Any]] = {
    "focalcodec": {"config": CONFIGS["25hz"]},
    "pure-16k-small": {},
    "simwhisper": {"config": CONFIG},
    "dualcodec": WEIGHTS,
    "hasrd": {"config": HASRD["conv"]},
}


@pytest.mark.parametrize("name", CODECS)
def test_the_compiled_width_does_not_change_tokens(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda compute, **_: compute)
    plain = load_codec(name, **CODECS[name])
    widened = load_codec(name, compile=True, **CODECS[name])
    clips = [speech(23_456), speech(9_001, seed=1), speech(3_000, seed=2)]
    for batch in (clips, clips[:1]):
        audio_BT, num_samples_B = padded(batch, 77, 1.0)
        expected_BKF = plain.encode(audio_BT, num_samples_B)
        assert torch.equal(widened.encode(audio_BT, num_samples_B), expected_BKF)
    assert widened.info == plain.info == codec_info(name, compile=True, **CODECS[name])


@given(size=st.integers(1, 3_000_000))
def test_compiled_widths_are_few_and_little_wider_than_the_audio(size: int) -> None:
    assert size <= bucket(size) <= max(8_192, size * 1.25)
    assert bucket(bucket(size)) == bucket(size)


def test_a_codec_that_cannot_be_compiled_says_so() -> None:
    with pytest.raises(InvalidConfig, match="null has no option 'compile'"):
        load_codec("null", compile=True)
