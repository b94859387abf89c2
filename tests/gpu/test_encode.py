"""Codecs on a GPU; without one all is skipped. The masked way itself is tested on CPUs too."""

from itertools import islice

import pytest
import torch
from torch import Tensor

from speechmill.codecs import load_codec
from speechmill.codecs.family import EQUAL_CODES
from tests.codecs.cases import CASES
from tests.codecs.focalcodec import goldens as focalcodec
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import encode_alone
from tests.gpu.devices import FAMILIES, ON_GPU, mismatch
from tests.gpu.inputs import sample_speech

pytestmark = ON_GPU
ROUNDED = 0.01  # share of tokens that float32 on a GPU may round to another side of a decision
LENGTHS = (24_000, 40_000, 15_999)
# Twice the shares of codes that rounding changes in the trained codec, by emulation: tf32 0.8 %,
# bf16 8.8 %. fp16 rounds as finely as tf32, but loses small numbers.
TRAINED = {"tf32": 0.016, "fp16": 0.03, "bf16": 0.18}


def clips() -> list[Tensor]:
    return [speech(length, seed=length) for length in LENGTHS]


@pytest.mark.parametrize("case", FAMILIES)
def test_a_batch_gives_the_tokens_of_its_clips_alone_on_a_cpu(case: str) -> None:
    reference, codec = CASES[case].load(), CASES[case].load(device="cuda")
    expected = [encode_alone(reference, clip_T) for clip_T in clips()]
    assert mismatch(codec.encode(*padded(clips(), 999, 0.5)), expected) <= ROUNDED


@pytest.mark.parametrize("name", focalcodec.CHECKPOINTS)
def test_the_authors_codes_come_out_of_a_batch(name: str) -> None:
    codec, expected = CASES[f"focalcodec {name}"].load(device="cuda"), focalcodec.golden(name)
    batch = padded([expected[f"{clip}.sig"] for clip in focalcodec.CLIPS], 777, 3.0)
    for clip, codes_KF in zip(focalcodec.CLIPS, codec.encode(*batch).cpu(), strict=True):
        codes_F = expected[f"{clip}.toks"]
        assert torch.equal(codes_KF[0, : len(codes_F)], codes_F)


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
@pytest.mark.parametrize("case", FAMILIES)
def test_a_precision_leaves_the_share_of_tokens_that_a_canary_requires(
    case: str, precision: str
) -> None:
    exact = CASES[case].load(device="cuda")
    rough = CASES[case].load(device="cuda", precision=precision, self_check=False)
    expected = [encode_alone(exact, clip_T) for clip_T in clips()]
    assert mismatch(rough.encode(*padded(clips())), expected) <= 1 - EQUAL_CODES[precision]


@pytest.mark.parametrize("precision", TRAINED)
def test_a_precision_changes_as_few_tokens_of_a_trained_codec_as_rounding_does(
    precision: str,
) -> None:
    speech_of = islice(sample_speech(16_000), 8)
    spoken = [torch.from_numpy(audio_T[:80_000].copy()) for audio_T in speech_of]
    exact = load_codec("pure-16k-small", device="cuda")
    rough = load_codec("pure-16k-small", device="cuda", precision=precision)
    expected = [encode_alone(exact, clip_T) for clip_T in spoken]
    assert mismatch(rough.encode(*padded(spoken)), expected) <= TRAINED[precision]


def test_a_compiled_codec_gives_the_tokens_of_one_that_is_not() -> None:
    plain = CASES["focalcodec offline_50hz"].load(device="cuda")
    compiled = CASES["focalcodec offline_50hz"].load(device="cuda", compile=True)
    expected = [encode_alone(plain, clip_T) for clip_T in clips()]
    assert mismatch(compiled.encode(*padded(clips())), expected) <= ROUNDED
