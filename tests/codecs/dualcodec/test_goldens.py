"""DualCodec gives what the authors' code gives."""

import json

import pytest
import torch
from torch.nn import functional as F

from speechmill.codecs import CodecError, load_codec
from speechmill.codecs.dualcodec.codec import DualCodec
from speechmill.codecs.dualcodec.config import DualCodecConfig, read_dualcodec_config
from speechmill.codecs.dualcodec.semantic import attended
from speechmill.codecs.dualcodec.weights import read_dualcodec
from tests.codecs.dualcodec.goldens import (
    CLIPS,
    CONSTRUCTED,
    codec,
    golden,
    golden_codes,
    load_small,
)
from tests.codecs.tokens import assert_near, encode_alone


@pytest.mark.parametrize("clip", CLIPS)
def test_codes_are_those_of_the_authors(clip: str) -> None:
    codes_KN = encode_alone(codec(), golden()[f"{clip}.audio_24k"])
    assert torch.equal(codes_KN, golden_codes(clip))


def test_codes_of_a_masked_batch_are_those_of_the_authors_single_clips() -> None:
    clips = [golden()[f"{clip}.audio_24k"] for clip in CLIPS]
    lengths_B = torch.tensor([len(clip_T) for clip_T in clips])
    audio_BT = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True, padding_value=0.7)
    codes_BKN = codec(masked=True).encode(audio_BT, lengths_B)
    for codes_KN, expected_KN in zip(codes_BKN, map(golden_codes, CLIPS), strict=True):
        assert torch.equal(codes_KN[:, : expected_KN.shape[1]], expected_KN)
        assert not codes_KN[:, expected_KN.shape[1] :].any()


@torch.inference_mode()
def test_the_semantic_path_agrees_step_by_step() -> None:
    io, semantic, network = golden(), codec().semantic, codec().network
    assert semantic is not None
    features_BSI, windows_B = semantic.fbank_features(io["s1p1.audio_24k"][None])
    assert_near(features_BSI[0], io["s1p1.input_features"])
    hidden_BSD = semantic.w2vbert(features_BSI, attended(windows_B))
    assert_near(hidden_BSD[0], io["s1p1.hidden17"])
    assert_near(semantic.standardise(hidden_BSD)[0], io["s1p1.normalized"])
    pooled_BND = semantic(io["s1p1.audio_24k"][None])
    assert_near(pooled_BND[0].T, io["s1p1.pooled"])
    assert_near(network.semantic_encoder(pooled_BND, None)[0].T, io["s1p1.convnext_encoder"])
    latent_BND = network.semantic_latent(io["s1p1.semantic_codes"])
    assert_near(latent_BND[0].T, io["s1p1.semantic_decoded"])


@torch.inference_mode()
def test_the_acoustic_path_agrees_step_by_step() -> None:
    io, network = golden(), codec().network
    audio_BT, codes_BKN = io["s1p1.audio_24k"][None], golden_codes("s1p1")[None]
    whole_BT = F.pad(audio_BT, (0, -audio_BT.shape[1] % 960))
    assert_near(network.acoustic_encoder(whole_BT[:, None])[0], io["s1p1.dac_encoder"])
    latent_BND = network.acoustic_latent(audio_BT, codes_BKN.shape[2])
    residual_BND = latent_BND - network.semantic_latent(codes_BKN[:, 0])
    assert_near(residual_BND[0].T, io["s1p1.acoustic_residual_in"])
    assert_near(network.acoustic_quantizer.decode(codes_BKN[:, 1:])[0].T, io["s1p1.acoustic_zq"])


@pytest.mark.parametrize(("clip", "books"), [("s4", 4), ("s1p1", 1), ("s1p1", 2), ("s1p1", 4)])
def test_audio_of_every_prefix_is_that_of_the_authors(clip: str, books: int) -> None:
    codes_BKN = golden_codes(clip)[None, :books]
    audio_BT = codec().decode(codes_BKN, torch.tensor([codes_BKN.shape[2]]))
    assert_near(audio_BT[0], golden()[f"{clip}.rec_nq{books}"])


def test_the_released_widths_agree_from_the_pooled_features_on() -> None:
    io = golden(CONSTRUCTED)
    wide = load_codec(
        "dualcodec",
        config=CONSTRUCTED / "config.json",
        checkpoint=CONSTRUCTED / "state_dict.safetensors",
    )
    assert isinstance(wide, DualCodec)
    with torch.inference_mode():
        codes_BKN = wide.network.encode(
            io["s1p1.audio_24k"][None], io["s1p1.pooled"].T[None], wide.info.num_codebooks
        )
    assert torch.equal(codes_BKN[0], golden_codes("s1p1", CONSTRUCTED))
    # The decoder's float32 rounding is 0.5 to 1.4e-4 of the peak, depending on the CPU.
    config = json.loads((CONSTRUCTED / "config.json").read_text())
    sizes = read_dualcodec_config(DualCodecConfig(), config)
    exact = read_dualcodec(sizes, CONSTRUCTED / "state_dict.safetensors").double()
    for books in (1, 2, 4):
        audio_BT = wide.decode(codes_BKN[:, :books], torch.tensor([codes_BKN.shape[2]]))
        assert_near(audio_BT[0], io[f"s1p1.rec_nq{books}"], tolerance=5e-4)
        with torch.inference_mode():
            exact_BT = exact.decode(codes_BKN[:, :books])
        assert_near(exact_BT[0], io[f"s1p1.rec_nq{books}"], tolerance=5e-5)


@pytest.mark.parametrize("books", [1, 2, 4])
def test_fewer_codebooks_are_a_prefix(books: int) -> None:
    fewer = load_small(num_codebooks=books)
    assert fewer.info.codebook_sizes == codec().info.codebook_sizes[:books]
    codes_KN = encode_alone(fewer, golden()["s1p1.audio_24k"])
    assert torch.equal(codes_KN, golden_codes("s1p1")[:books])


@pytest.mark.parametrize("books", [0, 5])
def test_more_codebooks_than_the_codec_has_are_refused(books: int) -> None:
    with pytest.raises(CodecError, match=f"num_codebooks is {books}, must be 1 to 4"):
        load_small(num_codebooks=books)
