"""Whisper's features without its padding."""

import pytest
import torch

from speechmill.codecs.nn.whisper.log_mel import LogMel, num_columns
from tests.codecs.speech import padded, speech

NUM_MELS = 80
LENGTHS = [1, 159, 160, 161, 500, 16_001, 479_800, 479_970, 480_000]


@pytest.mark.parametrize("length", LENGTHS)
def test_features_are_those_of_transformers_in_thirty_seconds(length: int) -> None:
    import transformers

    extract = transformers.WhisperFeatureExtractor(feature_size=NUM_MELS)
    audio_T = speech(length)
    audio_T[:-40] *= 1e-4
    expected_MT = extract(
        audio_T.numpy(), sampling_rate=16_000, return_tensors="pt"
    ).input_features[0]
    mel_MT = LogMel(NUM_MELS, 400)(audio_T[None])[0]
    assert mel_MT.shape[1] == min(3_000, num_columns(length) + 2)
    torch.testing.assert_close(mel_MT, expected_MT[:, : mel_MT.shape[1]], atol=1e-5, rtol=0)


def test_features_of_a_row_do_not_depend_on_longer_rows() -> None:
    clips = [speech(length, seed=length) for length in LENGTHS]
    mel_BMT = LogMel(NUM_MELS, 400)(padded(clips)[0])
    for clip_T, mel_MT in zip(clips, mel_BMT, strict=True):
        alone_MT = LogMel(NUM_MELS, 400)(clip_T[None])[0]
        torch.testing.assert_close(mel_MT[:, : alone_MT.shape[1]], alone_MT)
