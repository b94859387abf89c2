"""`audio.channels: each` gives rows of every channel."""

import itertools
import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from speechmill.codecs import Codec, codec_info, load_codec
from speechmill.pipeline.audio.filters import FilterSettings
from speechmill.pipeline.audio.recordings import ClipAudioSettings, Recordings, RecordingSettings
from speechmill.pipeline.audio.segment import SegmentSettings
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation, decode_shard
from tests.corpus import encode, tar_bytes, tone
from tests.one_shard import tokenize_one

LEFT, RIGHT = tone(2.5), tone(2.5, seed=1)
SPANS = json.dumps({"start": [0.5, 0.1], "end": [1.5, 0.4], "text": ["b", "a"]}).encode()
WAYS = [{}, {"by": "fixed", "seconds": 1.1}, {"by": "silence"}, {"by": "metadata"}]


def stereo(left, right, **kind):
    return encode(np.stack([left, right], 1), **kind)


@pytest.fixture
def tokenized(tmp_path, storage):
    """Rows and rejects of the members of one tar, with a row for each channel."""

    def run(members, codec: Codec | None = None, segment=None, **filters):
        out = f"{tmp_path}/{len(list(tmp_path.iterdir()))}"
        storage.put(f"{out}/a.tar", tar_bytes(members))
        [shard] = list_shards([f"{out}/a.tar"], storage)
        settings = DecodeSettings(
            ClipAudioSettings("each"),
            segment=SegmentSettings(**segment or {}),
            filters=FilterSettings(**filters),
        )
        report = tokenize_one(shard, out, storage, codec or load_codec("null"), settings)
        rows = pq.read_table(f"{out}/tokens").to_pylist()
        return rows, pq.read_table(f"{out}/rejects").to_pylist() if report.rejects else []

    return run


def without(row, *names):
    return {name: value for name, value in row.items() if name not in names}


@pytest.mark.parametrize("segment", WAYS)
@pytest.mark.parametrize("rate", [16_000, 22_050])
def test_each_channel_gives_the_rows_of_a_file_of_its_own(tokenized, segment, rate):
    def rows_of(data):
        return tokenized([("a.flac", data), ("a.json", SPANS)], segment=segment)[0]

    rows = rows_of(stereo(LEFT, RIGHT, rate=rate))
    assert [(row["start"], row["channel"]) for row in rows] == sorted(
        (row["start"], row["channel"]) for row in rows
    )
    for channel, audio_T in enumerate((LEFT, RIGHT)):
        own = [row for row in rows if row["channel"] == channel]
        mono = rows_of(encode(audio_T, rate))
        facts = ("channel", "num_channels", "audio_xxh3", "shard")
        assert [without(row, *facts) for row in own] == [without(row, *facts) for row in mono]
        assert {(row["num_channels"], row["channel"]) for row in mono} == {(1, None)}
        assert len(mono) >= (2 if segment.get("by") in ("fixed", "metadata") else 1)


def test_a_channel_is_rejected_without_the_other(tokenized):
    silent, bad = np.zeros_like(LEFT), LEFT.copy()
    bad[7] = np.nan
    cases = {"silent": silent, "nan": bad, "loud": 30 * LEFT}
    members = [
        (f"{key}.wav", stereo(LEFT, audio_T, format="WAV", subtype="FLOAT"))
        for key, audio_T in cases.items()
    ]
    rows, rejects = tokenized(members, max_silence=0.9, max_peak=8.0)
    assert [(row["key"], row["channel"]) for row in rows] == [(key, 0) for key in cases]
    assert [(r["key"], r["channel"], r["start"], r["error"]) for r in rejects] == [
        ("silent", 1, None, "SilentAudio"),
        ("nan", 1, None, "NonFiniteAudio"),
        ("loud", 1, None, "OverscaledAudio"),
    ]


def test_a_clip_of_a_channel_is_rejected_without_the_others(tokenized):
    half = np.concatenate([LEFT[:16_000], np.zeros(24_000, np.float32)])
    members = [("a.flac", stereo(half, RIGHT))]
    rows, rejects = tokenized(members, segment={"by": "fixed", "seconds": 1.0}, max_silence=0.5)
    assert [(row["start"], row["channel"]) for row in rows] == [(0, 0), (0, 1), (1, 1), (2, 1)]
    assert [(r["start"], r["channel"], r["error"]) for r in rejects] == [
        (1.0, 0, "SilentAudio"),
        (2.0, 0, "SilentAudio"),
    ]


def test_damage_rejects_the_recording_once(tokenized):
    data = stereo(LEFT, RIGHT)
    rows, [reject] = tokenized([("a.flac", data[: len(data) // 2]), ("b.flac", data)])
    assert [(row["key"], row["channel"]) for row in rows] == [("b", 0), ("b", 1)]
    assert (reject["key"], reject["channel"], reject["start"]) == ("a", None, None)


def test_channels_that_cancel_are_two_rows(tokenized):
    rows, rejects = tokenized([("a.flac", stereo(LEFT, -LEFT))])
    assert [row["channel"] for row in rows] == [0, 1]
    assert rejects == []


def test_several_codecs_and_a_process_of_its_own_give_the_same_clips(storage):
    members = [("a.flac", stereo(LEFT, RIGHT, rate=24_000)), ("b.flac", encode(LEFT))]
    storage.put("memory://each/a.tar", tar_bytes(members))
    [shard] = list_shards(["memory://each/a.tar"], storage)
    names = ["null", "dualcodec-12hz", "focalcodec-50hz"]
    infos = [codec_info(name, checkpoint="untrained") for name in names]

    def clips(codecs, isolation):
        found = decode_shard(
            shard, storage, DecodeSettings(ClipAudioSettings("each")), codecs, None, isolation
        )
        batches = [batch for batch in found if not isinstance(batch, ShardEnd)]
        return [
            [(b.audio_N.tobytes(), b.rows.to_pylist()) for b in batches if b.codec == number]
            for number in range(len(codecs))
        ]

    alone = [clips([info], Isolation.NONE)[0] for info in infos]
    assert clips(infos, Isolation.FULL) == clips(infos, Isolation.NONE) == alone
    assert [row["channel"] for _, rows in alone[0] for row in rows] == [0, 1, None]


def test_a_silent_channel_is_not_read_ahead_of_the_others():
    """Else the whole recording would be held for them."""
    speech = np.tile(np.r_[tone(1.5), np.zeros(16_000, np.float32)], 40)
    listens = np.where(np.arange(len(speech)) < len(speech) * 0.9, 0, speech)
    settings = RecordingSettings(
        ClipAudioSettings("each"), segment=SegmentSettings("silence", seconds=5)
    )
    recordings = Recordings(settings, [codec_info("null")])
    starts = [clip.start for clip in recordings.clips(stereo(speech, listens))]
    assert len(starts) == 44
    assert max(before - after for before, after in itertools.pairwise(starts)) < 12
