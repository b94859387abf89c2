"""Level, room and noise change a crop as configured, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from speechmill.jobs.training.augment import Augment, Crop, add_noise, load_pool, reverberate
from speechmill.jobs.training.config import AugmentSettings, MixSettings, NoiseSettings
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.storage import Storage
from tests.corpus import clip, tar_bytes, tone

SPEECH = tone(1.0).astype(np.float32)
NOISE = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)


def rms_db(audio_T: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(audio_T, dtype=np.float64))))


def augmented(settings: AugmentSettings, crop: Crop, *, keep_clean: bool = False) -> Crop:
    augment = Augment(settings, [NOISE], [np.float32([0, 1, 0, 0.5])], keep_clean)
    return augment(crop, np.random.default_rng(1))


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 20.0])
def test_noise_is_added_at_the_ratio_asked_for(snr_db: float) -> None:
    added_T = add_noise(SPEECH, NOISE, snr_db) - SPEECH
    assert rms_db(SPEECH) - rms_db(added_T) == pytest.approx(snr_db, abs=0.01)


def test_a_room_keeps_the_power_and_starts_at_its_peak() -> None:
    wet_T = reverberate(SPEECH, np.float32([0, 0, 1, 0, 0.5]))
    assert rms_db(wet_T) == pytest.approx(rms_db(SPEECH), abs=0.01)
    np.testing.assert_allclose(reverberate(SPEECH, np.float32([0, 0, 1])), SPEECH, atol=1e-6)


def test_the_level_is_in_its_range_unless_the_peak_would_clip() -> None:
    quiet = augmented(AugmentSettings(level_db=[-40, -30]), Crop(SPEECH, SPEECH, "a"))
    assert -40 <= rms_db(quiet.audio_T) <= -30
    np.testing.assert_array_equal(quiet.enhanced_T, quiet.audio_T)
    loud = augmented(AugmentSettings(level_db=[10, 10]), Crop(SPEECH, None, "a"))
    assert np.abs(loud.audio_T).max() == pytest.approx(0.99)


def test_room_and_noise_leave_the_enhanced_version_as_it_is() -> None:
    always = AugmentSettings(
        noise=NoiseSettings(["x"], probability=1.0), rooms=MixSettings(["x"], probability=1.0)
    )
    paired = augmented(always, Crop(0.1 * SPEECH, 0.05 * SPEECH, "a"))
    clean = augmented(always, Crop(0.1 * SPEECH, None, "a"), keep_clean=True)
    for found, expected_T in ((paired, 0.05 * SPEECH), (clean, 0.1 * SPEECH)):
        gain = np.abs(found.enhanced_T).max() / np.abs(expected_T).max()
        np.testing.assert_allclose(found.enhanced_T, gain * expected_T, atol=1e-6)
        assert not np.allclose(found.audio_T, found.enhanced_T, atol=0.01)


def test_a_pool_is_read_until_it_is_full(tmp_path: Path) -> None:
    for name in "ab":
        members = [(f"{name}{n}.flac", clip(1.0)) for n in range(3)]
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes([("x.txt", b"no audio"), *members]))
    (tmp_path / "c.tar").write_bytes(b"damaged")
    settings = MixSettings([f"{tmp_path}/"], probability=0.5, pool_mb=0.14)  # 32 kB each
    pool = load_pool(settings, 16_000, Storage(), AudioSettings())
    assert [len(recording_T) for recording_T in pool] == [16_000] * 5


def test_a_pool_without_audio_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes([("x.txt", b"no audio")]))
    settings = MixSettings([f"{tmp_path}/a.tar"], probability=0.5)
    with pytest.raises(InputError, match=r"no audio in .* can be mixed in"):
        load_pool(settings, 16_000, Storage(), AudioSettings())
