"""Recordings that become several rows."""

import json
import subprocess
import sys
import tarfile
from functools import cache

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.codecs import Codec, codec_info, load_codec
from speechmill.pipeline.audio.buffer import SampleBuffer, shared
from speechmill.pipeline.audio.segment import SegmentSettings, cutter
from speechmill.pipeline.errors import InputError, OversizedAudio
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.decode import DecodeSettings
from tests.corpus import encode, tar_bytes, tone
from tests.one_shard import tokenize_one

RATE = 16_000
CONVOLUTIONAL = {"channels": [4, 8, 8, 8, 16], "dim": 16, "codebook_size": 64, "lstm_layers": 0}


@cache
def codec(name: str) -> Codec:
    return load_codec(name, config=CONVOLUTIONAL if name == "pure" else None)


@pytest.fixture
def tokenized(tmp_path, storage):
    """Rows and rejects of the members of one tar."""

    def run(members, name="null", **segment):
        storage.put(f"{tmp_path}/a.tar", tar_bytes(members))
        [shard] = list_shards([f"{tmp_path}/a.tar"], storage)
        out = f"{tmp_path}/{len(list(tmp_path.iterdir()))}"
        decode = DecodeSettings(segment=SegmentSettings(**segment))
        report = tokenize_one(shard, out, storage, codec(name), decode)
        rows = pq.read_table(f"{out}/tokens").to_pylist()
        return rows, pq.read_table(f"{out}/rejects").to_pylist() if report.rejects else []

    return run


@pytest.mark.parametrize("name", ["null", "pure"])
@pytest.mark.parametrize(("seconds", "rate"), [(7.3, 16_000), (6.0, 44_100), (0.2, 16_000)])
def test_windows_of_a_convolutional_codec_give_the_tokens_of_the_whole_recording(
    tokenized, name, seconds, rate
):
    members = [("a.flac", encode(tone(seconds, rate), rate)), ("b.flac", encode(tone(2.5)))]
    whole, _ = tokenized(members, name)
    windows, _ = tokenized(members, name, by="fixed", seconds=1.1)
    for row in whole:
        parts = [window for window in windows if window["key"] == row["key"]]
        assert [code for part in parts for code in part["codes"]] == row["codes"]
        assert [part["end"] for part in parts[:-1]] == [p["start"] for p in parts[1:]]
        assert (parts[0]["start"], parts[-1]["end"]) == (0.0, row["end"])
        assert len(parts) == -(-row["num_frames"] // 55)


@pytest.mark.parametrize("name", ["null", "pure"])
def test_no_sample_beyond_the_stated_context_changes_a_frame(name):
    import torch

    info = codec(name).info
    before, after = info.context
    audio_T = torch.from_numpy(tone(1.5))
    frame = 30
    first, last = frame * info.hop_length - before, (frame + 1) * info.hop_length + after
    other_T = audio_T.clone()
    other_T[:first] = other_T[last:] = 0.3
    codes = [
        codec(name).encode(x_T[None], torch.tensor([len(x_T)]))[0, :, frame]
        for x_T in (audio_T, other_T)
    ]
    assert codes[0].tolist() == codes[1].tolist()


@settings(max_examples=60)
@given(
    blocks=st.lists(st.integers(1, 5_000), min_size=1, max_size=12),
    frames=st.integers(5, 30),
    context=st.sampled_from([0.0, 0.01, 0.05, 0.4]),
    name=st.sampled_from(["null", "focalcodec-50hz"]),
)
def test_windows_keep_every_frame_once_and_its_context(blocks, frames, context, name):
    info = codec_info(name)
    audio_T = np.arange(sum(blocks), dtype=np.float32)
    parts = iter(np.split(audio_T, np.cumsum(blocks)[:-1]))
    fixed = SegmentSettings(by="fixed", seconds=frames / 50, context_seconds=context)
    segments = list(cutter(fixed, info)(SampleBuffer(parts), ()))
    assert sum(segment.num_frames for segment in segments) == info.num_frames(len(audio_T))
    for segment in segments:
        begin, end = segment.audio_T[0], segment.audio_T[-1] + 1
        kept = segment.start * RATE
        assert begin == kept - segment.first_frame * 320 <= max(0, kept - context * RATE)
        assert end >= min(len(audio_T), kept + segment.num_frames * 320 + context * RATE)
        available = info.num_frames(len(segment.audio_T))
        assert segment.first_frame + segment.num_frames <= available
        np.testing.assert_array_equal(segment.audio_T, audio_T[int(begin) : int(end)])


def test_a_codec_without_a_stated_context_needs_the_setting():
    with pytest.raises(InputError, match=r"set segment\.context_seconds"):
        cutter(SegmentSettings(by="fixed"), codec_info("pure-4k"))
    cutter(SegmentSettings(by="fixed", context_seconds=5.0), codec_info("pure-4k"))


def test_metadata_lists_the_clips_and_their_texts(tokenized):
    spans = {"start": [2.0, 0.5], "end": [3.04, 1.5], "text": ["second", "first"], "id": 7}
    members = [("a.flac", encode(tone(3.0))), ("a.json", json.dumps(spans).encode())]
    rows, _ = tokenized(members, by="metadata")
    assert [(row["start"], row["end"], row["text"]) for row in rows] == [
        (0.5, 1.5, "first"),
        (2.0, 3.0, "second"),  # the metadata were rounded past the end
    ]
    assert [row["num_frames"] for row in rows] == [50, 50]
    whole, _ = tokenized(members)
    assert rows[1]["codes"] == whole[0]["codes"][100 * 8 :]


@pytest.mark.parametrize(
    "spans",
    [
        None,
        {"start": [0.0]},
        {"start": [0.0], "end": []},
        {"start": [0.0, 0.5], "end": [0.4]},
        {"start": [1.0], "end": [0.5]},
        {"start": [0.2, 0.2], "end": [0.5, 0.6]},
        {"start": ["0"], "end": [1.0]},
        {"start": [float("nan")], "end": [1.0]},
        {"start": [0.0], "end": [1.2]},
    ],
)
def test_metadata_that_do_not_fit_the_audio_reject_the_recording(tokenized, spans):
    members = [("a.flac", encode(tone(1.0))), ("b.flac", encode(tone(1.0)))]
    members.insert(1, ("a.json", json.dumps(spans).encode()))
    members.append(("b.json", b'{"start": [0.0], "end": [1.0]}'))
    rows, rejects = tokenized(members, by="metadata")
    assert [row["key"] for row in rows] == ["b"]
    assert [(reject["key"], reject["error"]) for reject in rejects] == [("a", "BadSegments")]


@pytest.mark.parametrize(("count", "kept"), [(4, 4), (5, 0), (1000, 0)])
def test_segments_of_more_than_four_times_their_recording_reject_it(tokenized, count, kept):
    spans = {"start": [n * 1e-5 for n in range(count)], "end": [1.0] * count}
    members = [("a.flac", encode(tone(1.0))), ("a.json", json.dumps(spans).encode())]
    rows, rejects = tokenized(members, by="metadata")
    assert len(rows) == kept
    assert [reject["error"] for reject in rejects] == ["OversizedAudio"] * (not kept)
    assert all("limits.expansion is 4" in reject["message"] for reject in rejects)


def test_overlapping_segments_may_lie_anywhere_in_a_long_recording(tokenized):
    spans = {"start": [0.0, 0.1, 0.2, 0.3, 0.4], "end": [1.0] * 5}  # 4 s
    members = [("a.flac", encode(tone(2.0))), ("a.json", json.dumps(spans).encode())]
    assert len(tokenized(members, by="metadata")[0]) == 5


@pytest.mark.parametrize(
    ("kind", "keys"),
    [
        ("whisper", {}),
        ("giga", {"starts": "begin_time", "ends": "end_time", "texts": "text_tn"}),
    ],
)
def test_a_list_of_objects_names_the_clips_and_their_texts(tokenized, kind, keys):
    start, end, text = keys.values() or ("start", "end", "text")
    objects = [{start: 1.2, end: 2.0, text: "B"}, {start: 0.5, end: 1.0, text: "A"}]
    fields = {"text": "A B", "segments": [*objects, {start: 2.0, end: 2.5}]}
    members = [("a.flac", encode(tone(3.0))), ("a.json", json.dumps(fields).encode())]
    rows, rejects = tokenized(members, by="metadata", list="segments", **keys)
    assert [(row["start"], row["end"], row["text"]) for row in rows] == [
        (0.5, 1.0, "A"),
        (1.2, 2.0, "B"),
        (2.0, 2.5, None),
    ]
    assert rejects == []


@pytest.mark.parametrize(
    "objects", [None, [], {}, [1], [{"start": 0.0}], [{"end": 1, "start": "0"}]]
)
def test_objects_without_times_reject_the_recording(tokenized, objects):
    members = [("a.flac", encode(tone(1.0))), ("b.flac", encode(tone(1.0)))]
    members.insert(1, ("a.json", json.dumps({"segments": objects}).encode()))
    members.append(("b.json", b'{"segments": [{"start": 0, "end": 1}]}'))
    rows, rejects = tokenized(members, by="metadata", list="segments")
    assert [row["key"] for row in rows] == ["b"]
    assert [(reject["key"], reject["error"]) for reject in rejects] == [("a", "BadSegments")]


def test_a_segment_that_does_not_end_after_its_start_costs_only_itself(tokenized):
    spans = {"start": [0.5, 0.5, 0.9, 7.0], "end": [0.5, 0.8, 0.2, 7.0]}
    members = [("a.flac", encode(tone(1.0))), ("a.json", json.dumps(spans).encode())]
    rows, rejects = tokenized(members, by="metadata")
    assert [(row["start"], row["end"]) for row in rows] == [(0.5, 0.8)]
    assert [(r["error"], r["start"], r["end"]) for r in rejects] == [
        ("BadSegments", 0.5, 0.5),
        ("BadSegments", 0.9, 0.2),
        ("BadSegments", 7.0, 7.0),
    ]


def test_a_recording_that_fails_is_shorter_to_none_of_its_readers():
    def blocks():
        yield np.zeros(5)
        raise OversizedAudio("over limits.seconds")

    for reader in shared(blocks(), 3):
        with pytest.raises(OversizedAudio):
            list(reader)


def speech_and_pauses() -> bytes:
    parts = [0.4, 1.5, 0.6, 1.0, 0.15, 0.5, 0.9]  # every second one, from the first, is a pause
    loud = [tone(s, seed=i) if i % 2 else np.zeros(int(s * RATE)) for i, s in enumerate(parts)]
    return encode(np.concatenate(loud).astype(np.float32))


def test_silence_separates_clips_and_is_dropped(tokenized):
    rows, _ = tokenized([("a.flac", speech_and_pauses())], by="silence")
    times = [(row["start"], row["end"]) for row in rows]
    expected = [(0.4, 1.9), (2.5, 4.15)]  # 0.15 s are too short for a pause
    assert [start for start, _ in times] == pytest.approx([e[0] - 0.1 for e in expected], abs=0.02)
    assert [end for _, end in times] == pytest.approx([e[1] + 0.1 for e in expected], abs=0.02)


def test_speech_without_a_pause_is_split_where_it_is_quietest(tokenized):
    audio_T = tone(7.0)
    audio_T[int(1.8 * RATE) : int(1.85 * RATE)] *= 0.01
    rows, _ = tokenized([("a.flac", encode(audio_T))], by="silence", seconds=2.0)
    assert rows[0]["end"] == pytest.approx(1.8, abs=0.05)
    assert [row["start"] for row in rows[1:]] == [row["end"] for row in rows[:-1]]
    assert max(row["duration"] for row in rows) <= 2.0
    assert rows[-1]["end"] == 7.0


def test_a_recording_of_silence_alone_is_rejected(tokenized):
    rows, rejects = tokenized([("a.flac", encode(np.zeros(RATE)))], by="silence")
    assert (rows, [r["error"] for r in rejects]) == ([], ["SilentAudio"])


@pytest.mark.parametrize("by", ["fixed", "silence"])
def test_damage_late_in_a_recording_rejects_its_earlier_clips(tokenized, by, monkeypatch):
    monkeypatch.setattr("speechmill.pipeline.audio.sndfile.BLOCK", RATE)
    monkeypatch.setattr("speechmill.pipeline.audio.decoders._AT_ONCE", RATE)
    damaged = bytearray(encode(tone(12.0)))
    damaged[-2_000] ^= 0xFF
    members = [("a.flac", bytes(damaged)), ("b.flac", encode(tone(3.0)))]
    rows, [reject] = tokenized(members, by=by, seconds=1.0)
    assert {row["key"] for row in rows} == {"b"}
    assert (reject["key"], reject["error"], reject["start"]) == ("a", "UndecodableAudio", None)


MEASURED = """
import resource, sys
from speechmill.pipeline.tokenize.decode import DecodeSettings, decode_shard
from speechmill.pipeline.audio.segment import SegmentSettings
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.storage import Storage
from speechmill.codecs import codec_info

shards = list_shards(sys.argv[1:], Storage())
settings = DecodeSettings(segment=SegmentSettings(by="fixed"), limits=Limits(seconds=4000))
held = int(open("/proc/self/statm").read().split()[5]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_DATA, (held + 250 * 2**20,) * 2)
frames = 0
for item in decode_shard(shards[0], Storage(), settings, [codec_info("null")]):
    frames += int(item.num_frames_B.sum()) if hasattr(item, "rows") else 0
print(frames, item.rejects)
"""


def test_an_hour_of_24_khz_stereo_passes_through_250_mb(tmp_path):
    """The hour has 346 MB encoded and 691 MB decoded."""
    path = tmp_path / "hour.wav"
    part = np.stack([0.3 * tone(20.0, 24_000, seed=seed) for seed in (1, 2)], axis=1)
    with soundfile.SoundFile(path, "w", 24_000, 2) as file:
        for _ in range(180):
            file.write(part)
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(path, "hour.wav")
    path.unlink()
    arguments = [sys.executable, "-c", MEASURED, str(tmp_path / "a.tar")]
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("180000 []\n", 0), done.stderr
