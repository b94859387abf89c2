"""The promises of the codec interface, tested with every codec."""

from itertools import pairwise
from pathlib import Path

import pytest
import soundfile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from speechmill.codecs import CodecInfo, InvalidAudio, InvalidCodes, UnsupportedPrecision
from tests.codecs.cases import CASES, loaded
from tests.codecs.margins import margins
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import TIE, assert_same_tokens, encode_alone
from tests.codecs.wrong_cpu import computes_bf16_wrongly

GARBAGE = st.sampled_from([0.0, 1.0, 30.0, float("nan")])
BATCHES = settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> str:
    return request.param


def steps(info: CodecInfo, longest: int) -> list[int]:
    """Return the lengths on both sides of every step of `num_frames`."""
    frames = [info.num_frames(length) for length in range(longest + 1)]
    risen = [length for length in range(1, longest + 1) if frames[length] != frames[length - 1]]
    return sorted({1, 2} | {length + side for length in risen for side in (-1, 0) if length > 1})


def clip_lengths(info: CodecInfo) -> st.SearchStrategy[int]:
    return st.one_of(st.sampled_from(steps(info, 4_000)), st.integers(1, 8_000))


@BATCHES
@given(masked=st.booleans(), data=st.data(), extra=st.integers(0, 3_000), garbage=GARBAGE)
def test_tokens_do_not_depend_on_batch_order_or_padding(
    case: str, masked: bool, data: st.DataObject, extra: int, garbage: float
) -> None:
    codec = loaded(case, masked=masked)
    lengths = data.draw(st.lists(clip_lengths(codec.info), min_size=1, max_size=3))
    clips = [speech(length, seed=length) for length in lengths]
    codes_BKF = codec.encode(*padded(clips, extra, garbage))
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        ties = assert_same_tokens(codec, clip_T, codes_KF)
        assert masked or ties == 0


def test_no_token_of_the_authors_clips_is_a_tie(case: str) -> None:
    codec, clips = loaded(case), CASES[case].clips()
    for clip_T in clips:
        codes_KF = encode_alone(codec, clip_T)
        if codes_KF.numel():
            assert margins(codec, clip_T, codes_KF).min() > TIE


def test_the_margins_decide_as_the_codec_does(case: str) -> None:
    clip_T = speech(16_001)
    margins_KF = margins(loaded(case), clip_T, encode_alone(loaded(case), clip_T))
    assert (margins_KF >= 0).all()
    assert margins_KF.median() > 10 * TIE


def test_num_frames_is_exact_for_every_length_to_4000_and_for_random_ones(case: str) -> None:
    """A longer clip never has fewer frames, so both sides of each step cover all lengths."""
    codec = loaded(case)
    random = torch.randint(4_000, 30_000, (4,), generator=torch.Generator().manual_seed(0))
    for length in [*steps(codec.info, 4_000), 4_000, *random.tolist()]:
        assert encode_alone(codec, speech(length)).shape[1] == codec.info.num_frames(length)


@pytest.mark.parametrize("case", ["null", "pure frames", "pure subframes"])
def test_samples_outside_the_context_of_a_frame_do_not_change_its_codes(case: str) -> None:
    codec = loaded(case)
    assert codec.info.context is not None
    before, after = codec.info.context
    clip_T, hop, frame = speech(12_000), codec.info.hop_length, 17
    inside = slice(frame * hop - before, (frame + 1) * hop + after)
    other_T = speech(12_000, seed=1)
    other_T[inside] = clip_T[inside]
    codes_KF, others_KF = encode_alone(codec, clip_T), encode_alone(codec, other_T)
    assert torch.equal(others_KF[:, frame], codes_KF[:, frame])
    assert not torch.equal(others_KF, codes_KF)


@BATCHES
@given(
    masked=st.booleans(),
    frames=st.lists(st.integers(1, 16), min_size=1, max_size=3),
    extra=st.integers(0, 3),
)
def test_audio_does_not_depend_on_batch_order_or_padding(
    case: str, masked: bool, frames: list[int], extra: int
) -> None:
    codec, tolerance = loaded(case, masked=masked), CASES[case].audio_tolerance if masked else 0
    codes_BKF = random_codes(codec.info, len(frames), max(frames) + extra)
    for codes_KF, count in zip(codes_BKF, frames, strict=True):
        codes_KF[:, count:] = -1
    audio_BT = codec.decode(codes_BKF, torch.tensor(frames))
    for codes_KF, audio_T, count in zip(codes_BKF, audio_BT, frames, strict=True):
        alone_T = codec.decode(codes_KF[None, :, :count], torch.tensor([count]))[0]
        assert len(alone_T) == codec.info.num_decoded_samples(count)
        error = (audio_T[: len(alone_T)] - alone_T).abs().max()
        assert error <= tolerance * max(1, alone_T.abs().max())
        assert not audio_T[len(alone_T) :].any()


def random_codes(info: CodecInfo, rows: int, frames: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames)
    books = [
        torch.randint(size, (rows, frames), generator=generator) for size in info.codebook_sizes
    ]
    return torch.stack(books, dim=1)


def test_any_prefix_of_the_codebooks_decodes_and_each_one_matters(case: str) -> None:
    codec = loaded(case)
    codes_BKF, frames_B = random_codes(codec.info, 1, 9), torch.tensor([9])
    audio = [
        codec.decode(codes_BKF[:, :books], frames_B) for books in prefixes(codec.info.num_codebooks)
    ]
    assert {audio_BT.shape for audio_BT in audio} == {(1, codec.info.num_decoded_samples(9))}
    for shorter_BT, longer_BT in pairwise(audio):
        assert not torch.equal(shorter_BT, longer_BT)


@pytest.mark.parametrize("case", [name for name in CASES if CASES[name].first_codebooks])
def test_a_prefix_of_the_codebooks_encodes_to_the_same_codes(case: str) -> None:
    first_codebooks, full_KF = (
        CASES[case].first_codebooks,
        encode_alone(loaded(case), speech(9_000)),
    )
    for books in prefixes(len(full_KF)):
        fewer = CASES[case].load(**first_codebooks(books))
        assert fewer.info.codebook_sizes == loaded(case).info.codebook_sizes[:books]
        assert torch.equal(encode_alone(fewer, speech(9_000)), full_KF[:books])


def prefixes(books: int) -> list[int]:
    return sorted({1, (books + 1) // 2, books})


def test_loading_twice_gives_the_same_tokens_and_keeps_the_random_state(case: str) -> None:
    state = torch.get_rng_state()
    again = CASES[case].load()
    assert torch.equal(torch.get_rng_state(), state)
    expected_KF = encode_alone(loaded(case), speech(8_000))
    for _ in range(2):
        assert torch.equal(encode_alone(again, speech(8_000)), expected_KF)


def test_the_info_of_a_loaded_codec_is_known_before_loading(case: str) -> None:
    assert loaded(case).info == CASES[case].info()


def test_codes_are_diverse_and_in_range(case: str) -> None:
    codec = loaded(case)
    codes_KF = encode_alone(codec, speech(96_000))
    assert codes_KF.dtype == torch.int64
    for codes_F, size in zip(codes_KF, codec.info.codebook_sizes, strict=True):
        assert 0 <= codes_F.min() <= codes_F.max() < size
        assert len(codes_F.unique()) > 0.1 * min(size, len(codes_F))


def test_tokens_of_real_speech_do_not_depend_on_the_batch(case: str, real_speech: Path) -> None:
    codec = loaded(case, masked=True)
    files = sorted((real_speech / "librispeech_train_clean_100").glob("*.flac"))[:3]
    clips = [torch.from_numpy(soundfile.read(f, dtype="float32")[0])[:40_000] for f in files]
    clips = [clip_T[: len(clip_T) - 7_001 * i] for i, clip_T in enumerate(clips)]
    codes_BKF = codec.encode(*padded(clips, extra=999, garbage=0.2))
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        assert_same_tokens(codec, clip_T, codes_KF)


def test_neither_encode_nor_decode_changes_its_input_or_tracks_gradients(case: str) -> None:
    codec = loaded(case, masked=True)
    audio_BT, num_samples_B = padded([speech(5_000), speech(900)], garbage=0.1)
    before_BT = audio_BT.clone()
    codes_BKF = codec.encode(audio_BT.requires_grad_(), num_samples_B)
    assert torch.equal(audio_BT, before_BT)
    before_BKF = codes_BKF.clone()
    frames_B = torch.tensor([codes_BKF.shape[2], 1])
    assert not codec.decode(codes_BKF, frames_B).requires_grad
    assert torch.equal(codes_BKF, before_BKF)


def test_silence_and_full_scale_give_codes_and_finite_audio(case: str) -> None:
    frames = loaded(case).info.num_frames(4_000)
    for level in (0.0, 1.0, -1.0):
        codes_KF = encode_alone(loaded(case), torch.full((4_000,), level))
        assert codes_KF.shape[1] == frames
        assert loaded(case).decode(codes_KF[None], torch.tensor([frames])).isfinite().all()


@pytest.mark.parametrize("masked", [False, True])
def test_clips_of_one_sample_neither_fail_nor_disturb_others(case: str, masked: bool) -> None:
    codec = loaded(case, masked=masked)
    frames = codec.info.num_frames(1)
    assert codec.encode(torch.zeros(2, 1), torch.tensor([1, 1])).shape[2] == frames
    clips = [speech(1), speech(8_000), speech(1, seed=1)]
    for clip_T, codes_KF in zip(clips, codec.encode(*padded(clips, 7, 1.0)), strict=True):
        assert_same_tokens(codec, clip_T, codes_KF)


def test_bf16_gives_mostly_the_same_first_codes_and_float32_audio(case: str) -> None:
    try:
        rough = CASES[case].load(precision="bf16")
    except UnsupportedPrecision as error:
        if not computes_bf16_wrongly():
            raise
        pytest.skip(str(error))
    exact_KF, rough_KF = (encode_alone(codec, speech(16_000)) for codec in (loaded(case), rough))
    assert (exact_KF[0] == rough_KF[0]).float().mean() > 0.5
    frames_B = torch.tensor([rough_KF.shape[1]])
    assert rough.decode(rough_KF[None], frames_B).dtype == torch.float32


def test_a_precision_that_the_device_lacks_is_refused(case: str) -> None:
    cures = {"int8": "valid: fp32, tf32, bf16, fp16", "fp16": "fp32 or bf16", "tf32": "use fp32"}
    for precision, cure in cures.items():
        with pytest.raises(UnsupportedPrecision, match=cure):
            CASES[case].load(precision=precision)


def test_bad_audio_is_refused(case: str) -> None:
    good_BT, full_B = torch.zeros(2, 400), torch.tensor([400, 400])
    refused = [
        (good_BT.short(), full_B, "int16.*32768"),
        (good_BT.double(), full_B, "float64"),
        (good_BT[0], full_B[:1], r"\(400,\)"),
        (good_BT[:, None], full_B, r"\(2, 1, 400\)"),
        (good_BT[:0], full_B[:0], "empty"),
        (good_BT, full_B[:1], r"\(1,\)"),
        (good_BT, full_B.float(), "float32"),
        (good_BT, torch.tensor([400, 0]), "row 1 has 0 samples"),
        (good_BT, torch.tensor([401, 1]), "row 0 has 401 samples"),
        (good_BT[:, :0], torch.tensor([0, 0]), "row 0 has 0 samples"),
        (good_BT + torch.nan, full_B, "sample 0 of row 0 is nan"),
        (good_BT - torch.inf, full_B, "sample 0 of row 0 is -inf"),
    ]
    for audio_BT, num_samples_B, message in refused:
        with pytest.raises(InvalidAudio, match=message):
            loaded(case).encode(audio_BT, num_samples_B)


def test_bad_codes_are_refused(case: str) -> None:
    codec = loaded(case)
    books, size = codec.info.num_codebooks, codec.info.codebook_sizes[-1]
    good_BKF, four_B = torch.zeros(1, books, 4, dtype=torch.int64), torch.tensor([4])
    above_BKF, below_BKF = good_BKF.clone(), good_BKF.clone()
    above_BKF[0, -1, 3], below_BKF[0, -1, 0] = size, -1
    refused = [
        (good_BKF.float(), four_B, "float32"),
        (good_BKF[0], four_B, rf"\({books}, 4\)"),
        (good_BKF.repeat(1, 2, 1), four_B, f"{2 * books} codebooks"),
        (good_BKF[:, :0], four_B, "0 codebooks"),
        (above_BKF, four_B, f"code {size} in codebook {books - 1}"),
        (below_BKF, four_B, f"code -1 in codebook {books - 1}"),
        (good_BKF, torch.tensor([5]), "row 0 has 5 frames"),
        (good_BKF, torch.tensor([0]), "row 0 has 0 frames"),
    ]
    for codes_BKF, num_frames_B, message in refused:
        with pytest.raises(InvalidCodes, match=message):
            codec.decode(codes_BKF, num_frames_B)
