import numpy as np
import pytest
import torch

from speechmill.codecs import CheckpointError
from speechmill.pipeline.enhance.api import EnhancerSettings, load_enhancer
from speechmill.pipeline.enhance.gate import GateSettings, check_gate, estimated_snr
from speechmill.pipeline.enhance.gtcrn import GtcrnNetwork
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality.signal import si_sdr
from tests.corpus import tone

RATE = 16_000


def lag(one, other):
    """By how many samples `other` comes after `one`, from their correlation."""
    size = 2 * len(one)
    spectrum = np.fft.rfft(other, size) * np.conj(np.fft.rfft(one, size))
    found = int(np.argmax(np.fft.irfft(spectrum, size)))
    return found if found < len(one) else found - size


@pytest.mark.parametrize("num_samples", [1, 255, 257, 16_001])
def test_the_output_has_the_length_of_the_input(enhancer, num_samples):
    out = enhancer.enhance(tone(1.1)[:num_samples])
    assert (out.shape, out.dtype) == ((num_samples,), np.float32)
    assert np.isfinite(out).all()


@pytest.mark.parametrize("delay", [0, 100, 4001])
def test_a_click_keeps_its_position(enhancer, delay):
    audio = np.zeros(RATE, np.float32)
    audio[4000 + delay] = 0.9
    out = enhancer.enhance(audio + 1e-4 * tone(1.0))
    assert np.argmax(np.abs(out)) == 4000 + delay


def test_enhancing_a_clip_twice_gives_the_same_audio(enhancer):
    np.testing.assert_array_equal(enhancer.enhance(tone(0.5)), enhancer.enhance(tone(0.5)))


def test_silence_stays_silence(enhancer):
    assert np.abs(enhancer.enhance(np.zeros(5000, np.float32))).max() < 1e-3


def test_a_streaming_model_resets_its_states_after_each_clip(tiny_onnx):
    enhancer = load_enhancer(EnhancerSettings("onnx", str(tiny_onnx)))
    audio = tone(0.5)
    whole = enhancer.enhance(audio)
    blocks = np.split(audio, [10, 300, 301, 5000])
    np.testing.assert_array_equal(np.concatenate(list(enhancer.stream(blocks))), whole)
    np.testing.assert_array_equal(enhancer.enhance(audio), whole)
    assert si_sdr(audio, whole) < 30


def test_published_enhancers_take_noise_out_of_real_recordings(published, noisy_pairs):
    for enhancer in published.values():
        for clean, noisy in noisy_pairs:
            enhanced = enhancer.enhance(noisy)
            assert len(enhanced) == len(noisy)
            assert lag(noisy, enhanced) == 0
            assert lag(clean, enhanced) == 0
            assert si_sdr(clean, enhanced) > si_sdr(clean, noisy) + 0.5


def test_published_ul_unas_streams_what_it_gives_as_a_whole(published, noisy_pairs):
    noisy = noisy_pairs[0][1][:RATE]
    blocks = np.split(noisy, [1, 999, 8000])
    streamed = np.concatenate(list(published["ul-unas"].stream(blocks)))
    np.testing.assert_array_equal(streamed, published["ul-unas"].enhance(noisy))


def test_gtcrn_is_causal():
    network = GtcrnNetwork().eval()
    spectrum = torch.randn(1, 257, 20, dtype=torch.complex64)
    changed = spectrum.clone()
    changed[..., 12:] = torch.randn(1, 257, 8, dtype=torch.complex64)
    with torch.inference_mode():
        one, other = network(spectrum), network(changed)
    torch.testing.assert_close(one[..., :12], other[..., :12])
    assert not torch.allclose(one[..., 12:], other[..., 12:])


def test_other_weights_are_another_revision(tiny_onnx, open_gtcrn, tmp_path):
    again = EnhancerSettings("gtcrn", str(tmp_path / "other.tar"))
    torch.save({"model": GtcrnNetwork().state_dict()}, tmp_path / "other.tar")
    one = load_enhancer(EnhancerSettings("gtcrn", str(open_gtcrn))).revision
    assert one != load_enhancer(again).revision
    narrow = EnhancerSettings("onnx", str(tiny_onnx), window="sqrt_hann")
    wide = EnhancerSettings("onnx", str(tiny_onnx))
    assert load_enhancer(narrow).revision != load_enhancer(wide).revision


def test_weights_of_another_network_are_refused(tmp_path, tiny_onnx):
    torch.save({"model": {"a": torch.zeros(1)}}, tmp_path / "other.tar")
    with pytest.raises(CheckpointError, match="missing"):
        load_enhancer(EnhancerSettings("gtcrn", str(tmp_path / "other.tar")))
    with pytest.raises(CheckpointError, match="cannot be loaded as ONNX"):
        load_enhancer(EnhancerSettings("ul-unas", str(tmp_path / "other.tar")))
    with pytest.raises(CheckpointError, match=r"expected mix \[1, 129, 1, 2\]"):
        load_enhancer(EnhancerSettings("onnx", str(tiny_onnx), n_fft=256, hop=128))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "ul-una"}, "enhancer.name is 'ul-una'; use one of ul-unas"),
        ({"name": "gtcrn"}, "enhancer.model is not set"),
    ],
)
def test_a_mistake_in_the_settings_is_named(arguments, message):
    with pytest.raises(InputError, match=message):
        EnhancerSettings(**arguments)


def speech_with_pauses(noise):
    audio = tone(2.0) * (np.arange(2 * RATE) // 8000 % 2)
    return audio + noise * np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)


def test_the_estimated_snr_follows_the_noise():
    found = [estimated_snr(speech_with_pauses(noise), RATE) for noise in (0.2, 0.02, 0.002)]
    assert found == sorted(found)
    assert found[2] - found[1] == pytest.approx(20, abs=2)
    assert estimated_snr(speech_with_pauses(0.0), RATE) == pytest.approx(100)


def test_a_clip_is_clean_when_it_reaches_every_threshold_that_is_set():
    clean, noisy = speech_with_pauses(0.0005), speech_with_pauses(0.1)
    assert check_gate(clean, RATE, GateSettings(snr_db=30)).clean
    assert not check_gate(noisy, RATE, GateSettings(snr_db=30)).clean
    assert not check_gate(clean, RATE, GateSettings()).clean


def test_the_gate_can_ask_dnsmos(dnsmos_model, noisy_pairs):
    clean, noisy = noisy_pairs[0]
    gate = GateSettings(dnsmos_bak=3.5, dnsmos=dnsmos_model)
    results = [check_gate(audio, RATE, gate) for audio in (clean, noisy)]
    assert [result.clean for result in results] == [True, False]


@pytest.mark.parametrize("threshold", [3.0, 0.0])
def test_a_gate_by_dnsmos_needs_its_model(threshold):
    with pytest.raises(InputError, match=r"gate\.dnsmos is not set"):
        GateSettings(dnsmos_ovr=threshold)
