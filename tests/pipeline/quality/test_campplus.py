"""CAM++ with random weights, and with the published ones where they are."""

from itertools import combinations

import numpy as np
import pytest
import torch

from speechmill.codecs.errors import CheckpointError
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, to_float
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.campplus import EMBEDDING, CamPlusPlus, kaldi_features
from speechmill.pipeline.quality.speech import similarity, speaker_model
from tests.corpus import tone


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return CamPlusPlus().eval()


def noise(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def test_features_are_centred_log_mel_frames_of_10_ms():
    features_TM = kaldi_features(noise(1.0))
    assert features_TM.shape == (98, 80)
    assert features_TM.mean(0).abs().max() < 1e-4
    torch.testing.assert_close(kaldi_features(noise(1.0) * 4), features_TM, atol=1e-3, rtol=0)


@torch.inference_mode()
def test_a_clip_has_the_same_embedding_in_a_batch(network):
    batch_BTM = torch.stack([kaldi_features(noise(2.3, seed)) for seed in range(3)])
    together_BE = network(batch_BTM)
    assert together_BE.shape == (3, EMBEDDING)
    for features_TM, expected_E in zip(batch_BTM, together_BE, strict=True):
        torch.testing.assert_close(network(features_TM[None])[0], expected_E, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "audio_T", [np.zeros(RATE, np.float32), noise(0.1)], ids=["silent", "short"]
)
@torch.inference_mode()
def test_silence_and_a_tenth_of_a_second_have_an_embedding(network, audio_T):
    assert network(kaldi_features(audio_T)[None]).isfinite().all()


def test_a_file_of_weights_is_a_speaker_model(network, tmp_path):
    path = tmp_path / "campplus.pt"
    torch.save(network.state_dict(), path)
    audio_T = tone(1.0).astype(np.float32)
    with torch.inference_mode():
        expected = network(kaldi_features(audio_T)[None])[0].numpy()
    np.testing.assert_allclose(speaker_model(str(path), "cpu")(audio_T), expected, atol=1e-5)


def test_other_weights_are_refused(tmp_path):
    path = tmp_path / "other.pt"
    torch.save({"head.conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(CheckpointError, match=r"other\.pt does not fit the network: missing"):
        speaker_model(str(path), "cpu")


def test_voices_of_one_speaker_are_more_alike_than_those_of_two(models, real_speech):
    path = models / "campplus" / "campplus_cn_en_common.pt"
    if not path.is_file():
        pytest.skip("no campplus/campplus_cn_en_common.pt at ../shared/models beside the checkout")
    embed = speaker_model(str(path), "cpu")
    voices = []
    for speaker in ("voicebank/p232", "voicebank/p257", "cmu_arctic/*aew", "cmu_arctic/*axb"):
        for file in sorted(real_speech.glob(f"{speaker}_*"))[:2]:
            audio_T = decode_audio(file.read_bytes(), RATE, AudioSettings(), Limits()).audio_T
            voices.append((speaker, embed(to_float(audio_T))))
    scores = {True: [], False: []}
    for (one, a), (other, b) in combinations(voices, 2):
        scores[one == other].append(similarity(a, b))
    assert len(scores[True]) == 4
    assert min(scores[True]) > 0.4 > max(scores[False])
