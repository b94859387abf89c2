"""Codecs on a GPU; without one all is skipped. The masked way itself is tested on CPUs too."""

import pytest
import torch
from torch import Tensor

from speechmill.codecs import Codec
from tests.codecs.cases import CASES
from tests.codecs.focalcodec import goldens as focalcodec
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import encode_alone

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
FAMILIES = ("pure", "focalcodec offline_50hz", "focalcodec causal", "dualcodec", "simwhisper")
ROUNDED = 0.01  # share of tokens that float32 on a GPU may round to another side of a decision
LENGTHS = (24_000, 40_000, 15_999)


def clips() -> list[Tensor]:
    return [speech(length, seed=length) for length in LENGTHS]


def mismatch(codec: Codec, actual_BKF: Tensor, expected: list[Tensor]) -> float:
    """The share of tokens that differ from those expected of each clip."""
    pairs = zip(actual_BKF.cpu(), expected, strict=True)
    parts = [codes_KF[:, : alone.shape[1]] != alone for codes_KF, alone in pairs]
    return torch.cat([part.flatten() for part in parts]).double().mean().item()


@pytest.mark.parametrize("case", [*FAMILIES, "hasrd default"])
def test_a_batch_gives_the_tokens_of_its_clips_alone_on_a_cpu(case: str) -> None:
    reference, codec = CASES[case].load(), CASES[case].load(device="cuda")
    expected = [encode_alone(reference, clip_T) for clip_T in clips()]
    assert mismatch(codec, codec.encode(*padded(clips(), 999, 0.5)), expected) <= ROUNDED


@pytest.mark.parametrize("name", focalcodec.CHECKPOINTS)
def test_the_authors_codes_come_out_of_a_batch(name: str) -> None:
    codec, expected = CASES[f"focalcodec {name}"].load(device="cuda"), focalcodec.golden(name)
    batch = padded([expected[f"{clip}.sig"] for clip in focalcodec.CLIPS], 777, 3.0)
    for clip, codes_KF in zip(focalcodec.CLIPS, codec.encode(*batch).cpu(), strict=True):
        codes_F = expected[f"{clip}.toks"]
        assert torch.equal(codes_KF[0, : len(codes_F)], codes_F)


@pytest.mark.parametrize("options", [{"precision": p} for p in ("tf32", "bf16", "fp16")], ids=str)
@pytest.mark.parametrize("case", [*FAMILIES, "hasrd default"])
def test_other_precisions_run_and_leave_most_tokens(case: str, options: dict[str, str]) -> None:
    exact, rough = CASES[case].load(device="cuda"), CASES[case].load(device="cuda", **options)
    expected = [encode_alone(exact, clip_T).cpu() for clip_T in clips()]
    assert mismatch(rough, rough.encode(*padded(clips())), expected) < 0.5


@pytest.mark.timeout(900)
def test_a_compiled_codec_gives_the_tokens_of_one_that_is_not() -> None:
    plain = CASES["focalcodec offline_50hz"].load(device="cuda")
    compiled = CASES["focalcodec offline_50hz"].load(device="cuda", compile=True)
    expected = [encode_alone(plain, clip_T).cpu() for clip_T in clips()]
    assert mismatch(compiled, compiled.encode(*padded(clips())), expected) <= ROUNDED
