import gzip
import math
from math import log2

import numpy as np
import pytest
import torch

from speechmill.codecs import load_codec
from speechmill.pipeline.audio.resample import AudioSettings, decode_audio
from speechmill.pipeline.audio.samples import Limits, to_float
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality import RATE, testset
from speechmill.pipeline.quality.codebook_usage import CodeCounts
from speechmill.pipeline.quality.dnsmos import dnsmos
from speechmill.pipeline.quality.reconstruct import reconstruct
from speechmill.pipeline.quality.scoring import Scorer, scored, scoring_processes
from speechmill.pipeline.quality.signal import SIGNAL_METRICS, match_length
from speechmill.pipeline.quality.speech import similarity, speaker_model
from speechmill.pipeline.quality.testset import Utterance
from tests.conftest import REPOSITORY
from tests.corpus import encode, tar_bytes, tone, write_corpus

BEST = {"pesq": 4.64, "stoi": 1.0, "si_sdr": 100.0, "mel": 0.0, "stft": 0.0}
HIGHER_IS_BETTER = {"pesq", "stoi", "si_sdr"}


@pytest.fixture(scope="module")
def speech():
    data = (REPOSITORY / "samples" / "en" / "kettle.wav").read_bytes()
    return to_float(decode_audio(data, RATE, AudioSettings(), Limits()).audio_T).astype(np.float32)


@pytest.fixture(params=BEST)
def metric(request):
    if request.param == "pesq":
        pytest.importorskip("pesq", reason="PESQ is built with a C compiler")
    return request.param


def noisy(speech, snr_db):
    noise = np.random.default_rng(0).standard_normal(len(speech))
    noise *= np.sqrt(np.mean(speech**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    return (speech + noise).astype(np.float32)


def test_a_clip_that_is_its_reference_gets_the_best_score(metric, speech):
    score = SIGNAL_METRICS[metric](speech, speech)
    if metric == "si_sdr":
        assert score > BEST[metric]
    else:
        assert score == pytest.approx(BEST[metric], abs=0.01)


def test_more_noise_is_a_worse_score(metric, speech):
    scores = [SIGNAL_METRICS[metric](speech, noisy(speech, snr)) for snr in (30, 20, 10, 0)]
    assert scores == sorted(scores, reverse=metric in HIGHER_IS_BETTER)
    assert len(set(scores)) == 4


def test_si_sdr_is_the_ratio_of_the_mixture_at_any_level(speech):
    for gain in (1.0, 0.1):
        score = SIGNAL_METRICS["si_sdr"](speech, noisy(speech, 10.0) * np.float32(gain))
        assert score == pytest.approx(10.0, abs=0.1)


def test_si_sdr_is_that_of_torchmetrics(speech):
    import torchmetrics  # 3 s, which the half of the suite without this test need not spend

    theirs = torchmetrics.functional.audio.scale_invariant_signal_distortion_ratio
    for estimate in (noisy(speech, 10.0), 0.5 * speech):
        expected = theirs(torch.tensor(estimate).double(), torch.tensor(speech).double())
        assert SIGNAL_METRICS["si_sdr"](speech, estimate) == float(expected)


@pytest.mark.parametrize("name", ["pesq", "stoi", "si_sdr", "stft"])
@pytest.mark.parametrize("level", [0.0, 2**-15])
def test_metrics_are_not_defined_for_a_silent_reference(name, level):
    if name == "pesq":
        pytest.importorskip("pesq", reason="PESQ is built with a C compiler")
    noise = np.random.default_rng(0).integers(-1, 2, RATE)
    silence = (level * noise).astype(np.float32)
    assert SIGNAL_METRICS[name](silence, silence) is None


@pytest.mark.parametrize("level", [0.0, 2**-15])
def test_a_silent_reconstruction_has_no_si_sdr(speech, level):
    estimate = level * np.random.default_rng(0).standard_normal(len(speech))
    assert SIGNAL_METRICS["si_sdr"](speech, estimate.astype(np.float32)) is None


def test_a_clip_too_short_for_stoi_has_none(speech):
    assert SIGNAL_METRICS["stoi"](speech[:2000], speech[:2000]) is None


@pytest.mark.parametrize("num_samples", [1, 160, 400, 420, 1600])
def test_no_clip_is_too_short_to_be_scored(speech, metric, num_samples):
    clip = speech[8000 : 8000 + num_samples]
    score = SIGNAL_METRICS[metric](clip, clip)
    assert score is None if metric in ("pesq", "stoi") else math.isfinite(score)


def test_no_reconstruction_ends_an_evaluation(speech, metric):
    for estimate in (np.zeros_like(speech), np.full_like(speech, np.nan)):
        score = Scorer([metric])(speech, estimate)[metric]
        assert score is None or math.isfinite(score)


def test_a_reconstruction_is_trimmed_or_padded_to_the_length_of_its_reference():
    audio = np.arange(1, 5, dtype=np.float64)
    assert match_length(audio, 2).tolist() == [1, 2]
    assert match_length(audio, 6).tolist() == [1, 2, 3, 4, 0, 0]


def test_processes_score_in_the_order_of_the_pairs(speech):
    scorer = Scorer(["si_sdr", "mel"])
    pairs = [(snr, speech, noisy(speech, snr)) for snr in range(12)]
    alone = list(scored(pairs, scorer, None))
    with scoring_processes(2) as processes:
        assert list(scored(pairs, scorer, processes)) == alone


def test_a_link_to_nothing_beside_the_shards_ends_no_evaluation(tmp_path, storage):
    write_corpus(tmp_path, num_shards=1, clips_per_shard=2, seconds=0.3)
    (tmp_path / "gone.tar").symlink_to("no")
    settings = testset.TestSetSettings([str(tmp_path)])
    utterances, rejects = testset.read_test_set(settings, AudioSettings(), Limits(), storage)
    assert (len(utterances), rejects) == (2, {})


def test_an_unknown_metric_is_named():
    with pytest.raises(InputError, match=r"no metric 'psq'.*pesq, stoi"):
        Scorer(["psq"])


def test_a_folder_of_compressed_tars_is_a_test_set(tmp_path, storage):
    data = gzip.compress(tar_bytes([("a.flac", encode(tone(0.5)))]))
    (tmp_path / "a.tar.gz").write_bytes(data)
    settings = testset.TestSetSettings([f"{tmp_path}/"])
    [clip], rejects = testset.read_test_set(settings, AudioSettings(), Limits(), storage)
    assert (clip.key, rejects) == ("a", {})


def test_the_first_clip_that_is_timed_follows_one_that_is_not(monkeypatch):
    codec, seconds = load_codec("null"), (0.0, 0.5, 0.5)
    clips_T = [np.zeros(round(length * RATE), np.float32) for length in seconds]
    utterances = [Utterance(str(n), b"", x_T, x_T, RATE, None) for n, x_T in enumerate(clips_T)]
    encode, encoded = codec.encode, []
    monkeypatch.setattr(codec, "encode", lambda x, n: encoded.append(len(x[0])) or encode(x, n))
    counts = CodeCounts(codec.info.codebook_sizes)
    done = reconstruct(utterances, codec, [1], AudioSettings(), Limits(), counts)
    assert [each.utterance.key for each in done] == ["1", "2"]
    assert encoded == [RATE // 2] * 3


def test_the_use_of_codebooks_is_what_was_counted():
    counts = CodeCounts((8, 1024))
    counts.add(np.stack([np.arange(64) % 4, np.zeros(64, int)]))
    even, constant = counts.use()
    assert (even.used, even.entropy, even.perplexity) == (4, 2.0, 4.0)
    assert (constant.used, constant.entropy, constant.perplexity) == (1, 0.0, 1.0)
    assert (counts.frames, counts.entropy_kbps(2, frame_rate=50)) == (64, 0.1)


def test_entropy_never_exceeds_the_nominal_rate():
    counts = CodeCounts((16,) * 3)
    counts.add(np.random.default_rng(0).integers(0, 16, (3, 5000)))
    assert 0.99 * log2(16) < counts.use()[0].entropy <= log2(16)


def test_dnsmos_rates_noise_below_clean_speech(dnsmos_model, speech):
    clean, spoiled = dnsmos(speech, dnsmos_model), dnsmos(noisy(speech, 5), dnsmos_model)
    assert spoiled.bak < clean.bak
    assert spoiled.ovr < clean.ovr
    assert 1 <= spoiled.ovr <= clean.ovr <= 5


def test_dnsmos_repeats_a_short_clip(dnsmos_model, speech):
    second = speech[:RATE]
    assert dnsmos(second, dnsmos_model) == dnsmos(np.tile(second, 9), dnsmos_model)


def test_similarity_is_the_cosine():
    assert similarity([3.0, 0.0], [5.0, 0.0]) == pytest.approx(1.0)
    assert similarity([[1.0, 0.0]], [[0.0, 2.0]]) == pytest.approx(0.0)


@pytest.mark.parametrize("name", ["tests.pcm_codec:nothing", "no.such.module:embed"])
def test_a_missing_function_is_named(name):
    with pytest.raises(InputError, match=name):
        speaker_model(name, "cpu")
