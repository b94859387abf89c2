"""Recordings cut where someone speaks; the reference is the code of the silero-vad package."""

import io
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from speechmill.codecs import codec_info
from speechmill.pipeline.audio import vad
from speechmill.pipeline.audio.buffer import SampleBuffer
from speechmill.pipeline.audio.resample import AudioSettings, resampled
from speechmill.pipeline.audio.segment import SegmentSettings, cutter
from speechmill.pipeline.audio.vad import SpeechSettings, find_speech
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.errors import DatasetConflict, InputError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.decode import DecodeSettings
from tests.conftest import REPOSITORY
from tests.corpus import encode, tar_bytes
from tests.one_shard import tokenize_one

DEFAULT = {"threshold": 0.5, "min_speech": 0.25, "min_silence": 0.1, "pad": 0.03}
CLIPS = ["en/hello.flac", "en/kettle.wav", "de/zahlen.flac", "it/sera.flac", "sv/tack.flac"]


@cache
def speech() -> np.ndarray:
    """Five clips of speech at 16 kHz, with silence and noise between them."""
    random, parts = np.random.default_rng(0), []
    for name in CLIPS:
        audio_TC, rate = soundfile.read(
            REPOSITORY / "samples" / name, dtype="float32", always_2d=True
        )
        parts += resampled(iter([audio_TC[:, 0].copy()]), rate, vad.RATE, AudioSettings())
        parts.append(random.normal(0, 0.003, random.integers(3_000, 40_000)).astype(np.float32))
    return np.concatenate(parts)


def found(audio_T: np.ndarray, blocks: int = 1, **settings: float) -> list[tuple[int, int]]:
    parts = iter(np.array_split(audio_T, blocks))
    wanted = SpeechSettings(**{**DEFAULT, "longest": float("inf")} | settings)
    return [each for heard in find_speech(parts, wanted) for each in heard.speech]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"threshold": 0.9, "min_speech": 0.5, "min_silence": 0.4, "pad": 0.2},
        {"longest": 2.0, "min_silence": 1.0},
        {"longest": 1.5, "pad": 0.1, "min_silence": 0.03, "min_speech": 0.0},
    ],
)
def test_speech_begins_and_ends_where_silero_says_to_the_sample(settings):
    import torch
    from silero_vad import get_speech_timestamps, load_silero_vad

    names = {"threshold": "threshold", "longest": "max_speech_duration_s"}
    ms = {"min_speech": "min_speech_duration_ms", "min_silence": "min_silence_duration_ms"}
    options = {names[name]: value for name, value in settings.items() if name in names}
    for name, theirs in (ms | {"pad": "speech_pad_ms"}).items():
        if name in settings:
            options[theirs] = round(1000 * settings[name])
    model, audio = load_silero_vad(onnx=True), torch.from_numpy(speech())
    wanted = get_speech_timestamps(audio, model, **options)
    assert len(wanted) >= 5
    assert found(speech(), **settings) == [(each["start"], each["end"]) for each in wanted]


def test_the_sizes_of_blocks_change_no_segment():
    whole = found(speech())
    assert [found(speech(), blocks) for blocks in (2, 77, 1001)] == [whole] * 3


def clips(audio_T: np.ndarray, rate: int = vad.RATE, blocks: int = 9, **settings) -> list:
    """The clips of the cutter for a codec of a rate; the audio has this rate."""
    codec = replace(codec_info("null"), sample_rate=rate)
    buffer = SampleBuffer(iter(np.array_split(audio_T, blocks)))
    return [clip for clip in cutter(SegmentSettings("vad", **settings), codec)(buffer, ()) if clip]


def test_a_clip_is_the_audio_of_its_times_at_any_rate():
    whole = clips(speech())
    at_24 = np.concatenate(list(resampled(iter([speech()]), vad.RATE, 24_000, AudioSettings())))
    for rate, audio_T in ((vad.RATE, speech()), (24_000, at_24)):
        cut = clips(audio_T, rate)
        for clip in cut:
            start, stop = round(clip.start * rate), round(clip.end * rate)
            np.testing.assert_array_equal(clip.audio_T, audio_T[start:stop])
        np.testing.assert_allclose([c.start for c in cut], [c.start for c in whole], atol=0.04)
        assert [c.start for c in clips(audio_T, rate, blocks=200)] == [c.start for c in cut]


def test_speech_in_less_than_a_sample_of_the_codec_is_no_clip():
    """At 16 kHz the recording has two windows and a sample, at 11.025 kHz two windows."""
    settings = {"threshold": 0.0001, "min_speech": 0.0, "min_silence": 0.0, "pad": 0.0}
    at_11 = np.concatenate(list(resampled(iter([speech()]), vad.RATE, 11_025, AudioSettings())))
    [clip] = clips(at_11[5000:5706], 11_025, 2, **settings)
    assert len(clip.audio_T) > 0


def test_int16_and_float_samples_have_the_same_segments():
    audio_T = (speech() * 32_767).astype(np.int16)
    times = [(clip.start, clip.end) for clip in clips(audio_T)]
    assert times == [(clip.start, clip.end) for clip in clips(audio_T / np.float32(32_768))]


def test_no_clip_is_longer_than_the_setting():
    settings = {"seconds": 1.0, "min_silence": 0.3}
    assert max(len(clip.audio_T) for clip in clips(speech(), **settings)) <= 1.0 * vad.RATE
    assert max(len(clip.audio_T) for clip in clips(speech())) > 2.0 * vad.RATE


def test_a_long_recording_is_held_for_some_seconds_only():
    codec, most = codec_info("null"), 0
    parts = (part for _ in range(4) for part in np.array_split(speech(), 60))
    buffer = SampleBuffer(parts)
    for _ in cutter(SegmentSettings("vad", seconds=3.0), codec)(buffer, ()):
        most = max(most, sum(len(block) for _, block in buffer._held))
    assert buffer.end == 4 * len(speech())
    assert most < 9 * vad.RATE


@pytest.fixture
def tokenized(tmp_path, storage, null_codec):
    """Rows, rejects and the bytes of the part of one tar."""

    def run(members, **segment):
        if not storage.exists(f"{tmp_path}/a.tar"):
            storage.put(f"{tmp_path}/a.tar", tar_bytes(members))
        [shard] = list_shards([f"{tmp_path}/a.tar"], storage)
        out = tmp_path / f"{len(list(tmp_path.iterdir()))}"
        decode = DecodeSettings(segment=SegmentSettings("vad", **segment))
        report = tokenize_one(shard, str(out), storage, null_codec, decode)
        rows = pq.read_table(out / "tokens").to_pylist()
        rejects = pq.read_table(out / "rejects").to_pylist() if report.rejects else []
        return rows, rejects, next((out / "tokens").iterdir()).read_bytes()

    return run


def test_rows_are_speech_and_a_recording_without_speech_is_rejected(tokenized):
    noise = np.random.default_rng(1).normal(0, 0.05, 3 * vad.RATE).astype(np.float32)
    members = [("a.flac", encode(speech())), ("b.flac", encode(noise))]
    rows, [reject], data = tokenized(members)
    quantized = soundfile.read(io.BytesIO(members[0][1]), dtype="float32")[0]
    times = [(row["start"], row["end"]) for row in rows]
    assert times == [(a / vad.RATE, b / vad.RATE) for a, b in found(quantized, longest=30.0)]
    assert (reject["key"], reject["stage"], reject["error"]) == ("b", "filter", "SilentAudio")
    assert "segment.threshold is 0.5" in reject["message"]
    assert tokenized(members)[2] == data


def test_a_dataset_of_another_network_is_refused_by_name(
    tmp_path, storage, null_codec, monkeypatch
):
    def identity():
        settings = DecodeSettings(segment=SegmentSettings("vad"))
        return dataset_identity(null_codec.info, "fp32", settings)

    dataset = TokenDataset(str(tmp_path), storage)
    dataset.claim(identity())
    assert json.loads((tmp_path / "dataset.json").read_text())["vad"] == vad.SHA256
    dataset.claim(identity())
    monkeypatch.setattr(vad, "SHA256", "another")
    with pytest.raises(DatasetConflict, match=f"vad = '{dataset.read_identity()['vad']}'"):
        dataset.claim(identity())


def test_datasets_of_other_segments_do_not_know_the_settings_of_vad(null_codec):
    settings = DecodeSettings(segment=SegmentSettings("silence"))
    identity = dataset_identity(null_codec.info, "fp32", settings)
    assert "vad" not in identity
    assert not {"threshold", "min_speech", "min_silence", "pad"} & identity["segment"].keys()


def test_a_missing_package_and_another_network_are_named_with_the_cure(monkeypatch):
    load = vad.load_network.__wrapped__
    with monkeypatch.context() as patch:
        patch.setattr(vad, "SHA256", "0" * 64)
        with pytest.raises(InputError, match=r"has the sha256 9ccd.*pip install 'silero-vad=="):
            load()
    with monkeypatch.context() as patch:
        patch.setattr(vad, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"pip install 'speechmill\[vad\]'"):
            load()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"threshold": 0.0}, "segment.threshold is 0.0"),
        ({"threshold": float("nan")}, "segment.threshold is nan"),
        ({"pad": -0.1}, "segment.pad is -0.1"),
        ({"seconds": 0.5}, r"segment.min_speech is 0.25; .*less than a third of segment.seconds"),
        ({"min_silence": 10.0}, "segment.min_silence is 10.0"),
    ],
)
def test_settings_that_find_no_speech_are_refused(settings, named):
    with pytest.raises(InputError, match=named):
        SegmentSettings("vad", **settings)
    SegmentSettings("fixed", **settings)
