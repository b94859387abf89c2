"""Compiled codecs: layers are compiled once for all batches, and that changes no token."""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch

from speechmill.codecs import InvalidConfig, codec_info, load_codec
from tests.codecs.dualcodec.goldens import WEIGHTS
from tests.codecs.focalcodec.small import CONFIGS
from tests.codecs.simwhisper.golden import CONFIG
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import assert_same_tokens

CODECS: dict[str, dict[str, Any]] = {
    "focalcodec": {"config": CONFIGS["25hz"]},
    "pure-16k-small": {},
    "simwhisper": {"config": CONFIG},
    "dualcodec": WEIGHTS,
}


@pytest.mark.parametrize("name", CODECS)
def test_layers_are_compiled_once_for_all_batches_and_change_no_token(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "torch.__trace")  # it writes down every guard
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **how: compile_(f, backend="eager", **how))
    plain = load_codec(name, **CODECS[name])
    compiled: Any = load_codec(name, compile=True, **CODECS[name])
    assert compiled.info == plain.info == codec_info(name, compile=True, **CODECS[name])
    compiled._runner = replace(compiled._runner, row_by_row=False)
    for samples in (15_360, 20_480):
        compiled.encode(*padded([speech(samples), speech(samples, seed=1)]))
    with torch.compiler.set_stance("fail_on_recompile"):
        clips = [speech(samples) for samples in (25_600, 20_000, 17_000)]
        codes_BKF = compiled.encode(*padded(clips))
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        assert_same_tokens(plain, clip_T, codes_KF)


def test_a_codec_that_cannot_be_compiled_says_so() -> None:
    with pytest.raises(InvalidConfig, match="null has no option 'compile'"):
        load_codec("null", compile=True)
