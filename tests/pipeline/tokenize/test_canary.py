"""A device that computes wrongly is found when it loads a codec, and before each part."""

from dataclasses import replace

import pytest

from speechmill.codecs import codec_info, load_codec
from speechmill.codecs.family import Card
from speechmill.pipeline.errors import DeviceWrong
from speechmill.pipeline.tokenize import canary
from speechmill.pipeline.tokenize.canary import Canary, Reference, reference_codes, stored_reference
from tests.codecs.cases import PURE

INFO = codec_info("null")
OPTIONS = {"name": "null", "device": "cpu", "precision": "fp32"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPEECHMILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "canary"


class Lying:
    """The null codec, whose codes of later codebooks are wrong from now on."""

    info = INFO

    def __init__(self, first_wrong):
        self.codec, self.first_wrong = load_codec("null"), first_wrong

    def encode(self, audio_BT, num_samples_B):
        codes_BKF = self.codec.encode(audio_BT, num_samples_B).clone()
        codes_BKF[:, self.first_wrong :] ^= 1
        return codes_BKF


@pytest.mark.parametrize(("first_wrong", "share"), [(0, "0%"), (4, "50%"), (7, "88%")])
def test_wrong_codes_of_any_codebook_are_found_at_load_and_named_with_the_device(
    first_wrong, share
):
    reference = reference_codes(INFO, OPTIONS)
    message = rf"null in fp32 on the CPU of .+: only {share} of a known clip.+ test that device"
    with pytest.raises(DeviceWrong, match=message):
        Canary(Lying(first_wrong), "cpu", "fp32", reference)
    Canary(Lying(8), "cpu", "fp32", reference)


def test_once_one_code_has_changed_the_canary_never_passes_again():
    codec = Lying(8)
    watched = Canary(codec, "cpu", "fp32", None)
    watched.check()
    codec.first_wrong = 7
    for _ in range(2):
        with pytest.raises(DeviceWrong, match=r"changed 100 of 800 codes .+ since it was loaded"):
            watched.check()
        codec.first_wrong = 8


def test_a_reference_is_computed_once_and_again_if_its_file_is_damaged(cache, monkeypatch):
    first = reference_codes(INFO, OPTIONS)
    [file] = cache.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    assert reference_codes(INFO, OPTIONS) == first
    assert file.read_bytes() == whole
    monkeypatch.setattr(canary, "load_codec", None)
    assert reference_codes(INFO, OPTIONS) == first


def test_a_reference_is_in_float32_on_the_cpu_whatever_the_workers_use():
    options = {"name": "pure", "config": PURE, "compile": True}
    info = codec_info(**options)
    found = reference_codes(info, {**options, "device": "cuda:7", "precision": "bf16"})
    assert Canary(load_codec("pure", config=PURE), "cpu", "fp32", found)


@pytest.mark.parametrize(
    "damage",
    [
        {"clip": "another version"},
        {"codes": ["1 2"] * 7},
        {"codes": ["1 1024"] * 8},
        {"codes": ["1 -1"] * 8},
        {"codes": ["1 x"] * 8},
        {"codes": ["1 2"] * 7 + ["1"]},
        {"codes": [""] * 8},
        {"codes": 5},
    ],
)
def test_a_damaged_or_foreign_reference_of_a_dataset_is_not_used(damage, caplog):
    good = {"clip": canary.clip_digest(), "codes": ["1 2"] * 8}
    assert stored_reference({"canary": good}, INFO) == Reference(good["clip"], ((1, 2),) * 8)
    assert stored_reference({"canary": good | damage}, INFO) is None
    assert "canary of dataset.json" in caplog.text


def test_a_card_may_lower_the_share_that_a_precision_must_give(monkeypatch):
    monkeypatch.setattr(canary, "codec_card", lambda _: Card(equal_codes={"bf16": 0.3}))
    shares = [canary.least_equal(INFO, precision) for precision in ("bf16", "fp16", "fp32")]
    assert shares == [0.3, 0.5, 0.9]
    assert canary.least_equal(replace(INFO, trained=False), "bf16") == 0.5
