import json
from dataclasses import replace

import numpy as np
import pytest

from speechmill.codecs import codec_info
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.audio.segment import SegmentSettings
from speechmill.pipeline.errors import NoAudio
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.shards.tar_reader import Sample
from speechmill.pipeline.tokenize.batching import Batch, ShardEnd
from speechmill.pipeline.tokenize.decode import DecodeSettings, decode_shard
from speechmill.pipeline.tokenize.describe import audio_suffix
from tests.corpus import clip, encode, tar_bytes, tone

RATES = [16_000, 24_000, 16_000, 44_100]


def decode(members, storage, settings=None):
    storage.put("memory://decode/a.tar", tar_bytes(members))
    [shard] = list_shards(["memory://decode/a.tar"], storage)
    *batches, end = decode_shard(shard, storage, settings or DecodeSettings(), [codec_info("null")])
    assert isinstance(end, ShardEnd)
    return batches, end


def rows(batches: list[Batch]):
    return [row for batch in batches for row in batch.rows.to_pylist()]


def test_rows_carry_the_facts_of_their_source(storage):
    stereo = np.stack([tone(0.5, 48_000)] * 2, axis=1)
    members = [
        ("a.wav", encode(stereo, 48_000, "WAV")),
        ("a.json", b'{"text": "hello", "speaker": "s1"}'),
    ]
    batches, _ = decode(members, storage)
    [row] = rows(batches)
    assert (row["key"], row["text"], row["index"]) == ("a", "hello", 0)
    assert (row["sample_rate"], row["num_channels"], row["duration"]) == (48_000, 2, 0.5)
    assert (row["start"], row["end"], row["shard"][-5:]) == (0.0, 0.5, "a.tar")
    assert row["metadata"] == '{"text": "hello", "speaker": "s1"}'


def test_a_txt_member_is_preferred_to_the_text_of_the_json(storage):
    members = [("a.flac", clip()), ("a.json", b'{"text": "no"}'), ("a.txt", b"yes")]
    batches, _ = decode(members, storage)
    assert rows(batches)[0]["text"] == "yes"


@pytest.mark.parametrize("bad", [b"{not json", b"\xff\xfe\x00", b""])
def test_damaged_json_costs_the_metadata_and_is_counted(storage, bad):
    batches, end = decode([("a.flac", clip()), ("a.json", bad)], storage)
    assert rows(batches)[0]["metadata"] is None
    assert (end.num_bad_json, end.rejects) == (1, [])


def test_equal_bytes_have_equal_hashes_and_others_do_not(storage):
    members = [("a.flac", clip(seed=1)), ("b.flac", clip(seed=1)), ("c.flac", clip(seed=2))]
    batches, _ = decode(members, storage)
    hashes = {row["key"]: row["audio_xxh3"] for row in rows(batches)}
    assert hashes["a"] == hashes["b"] != hashes["c"]


def test_mixed_16_bit_and_float_clips_keep_their_samples(storage):
    audio = tone(0.4)
    members = [("a.flac", encode(audio)), ("b.wav", encode(audio, format="WAV", subtype="FLOAT"))]
    [batch], _ = decode(members, storage)
    assert batch.audio_N.dtype == np.float32
    np.testing.assert_allclose(*np.split(batch.audio_N, 2), atol=1 / 32000)


def test_every_bad_sample_is_one_reject_and_the_good_ones_stay(storage):
    members = [
        ("zero.flac", b""),
        ("cut.flac", clip()[:-500]),
        ("text.wav", b"no audio at all"),
        ("good.flac", clip()),
        ("none.json", json.dumps({"text": "no audio"}).encode()),
        ("long.flac", clip(3.0)),
    ]
    settings = DecodeSettings(limits=Limits(seconds=2.0))
    batches, end = decode(members, storage, settings)
    assert [row["key"] for row in rows(batches)] == ["good"]
    assert [(r.key, r.error, r.stage) for r in end.rejects] == [
        ("zero", "UndecodableAudio", "decode"),
        ("cut", "TruncatedAudio", "decode"),
        ("text", "UndecodableAudio", "decode"),
        ("none", "NoAudio", "read"),
        ("long", "OversizedAudio", "decode"),
    ]
    assert [r.num_bytes for r in end.rejects[:2]] == [0, len(clip()) - 500]


def test_a_clip_that_is_too_long_for_the_codec_is_a_reject_with_the_cure(storage):
    members = [("a.flac", clip(0.4)), ("long.flac", clip(0.9)), ("z.flac", clip(0.5))]
    batches, end = decode(members, storage, DecodeSettings(longest_clips=(0.5,)))
    assert [row["key"] for row in rows(batches)] == ["a", "z"]
    [reject] = end.rejects
    assert (reject.key, reject.error) == ("long", "OversizedAudio")
    assert "null takes at most 0.5 s" in reject.message
    assert "segment.by=fixed" in reject.message
    cut = DecodeSettings(
        longest_clips=(0.5,), segment=SegmentSettings("fixed", 0.4, context_seconds=0.0)
    )
    batches, end = decode(members, storage, cut)
    assert (len(rows(batches)), end.rejects) == (6, [])


@pytest.mark.parametrize(
    ("suffixes", "wanted", "chosen"),
    [
        (["json", "flac"], None, "flac"),
        (["flac", "enhanced.flac"], None, "flac"),
        (["flac", "enhanced.flac"], "enhanced.flac", "enhanced.flac"),
        (["take.2.wav", "txt"], None, "take.2.wav"),
    ],
)
def test_the_audio_member_is_the_wanted_or_the_only_one(suffixes, wanted, chosen):
    assert audio_suffix(Sample("k", 0, dict.fromkeys(suffixes, b"")), wanted) == chosen


@pytest.mark.parametrize(
    ("suffixes", "wanted", "cure"),
    [
        (["flac", "wav"], None, r"audio\.member"),
        (["1.wav", "2.wav"], None, r"audio\.member"),
        (["json"], None, "is audio"),
        (["flac"], "opus", r"no member \.opus"),
    ],
)
def test_an_audio_member_that_is_not_clear_is_refused(suffixes, wanted, cure):
    with pytest.raises(NoAudio, match=cure):
        audio_suffix(Sample("k", 0, dict.fromkeys(suffixes, b"")), wanted)


@pytest.mark.parametrize("by", ["none", "fixed", "silence"])
def test_several_codecs_get_the_batches_of_a_run_with_one(storage, by):
    members = [(f"{n}.flac", encode(tone(0.5 + n, rate), rate)) for n, rate in enumerate(RATES)]
    members += [("cut.flac", clip()[:-500]), ("short.flac", clip(0.01)), ("note.txt", b"")]
    storage.put("memory://several/a.tar", tar_bytes(members))
    [shard] = list_shards(["memory://several/a.tar"], storage)
    settings = DecodeSettings(segment=SegmentSettings(by, seconds=0.7))
    codecs = [
        replace(codec_info("null"), sample_rate=rate, min_frames=0, frame_offset=0)
        for rate in RATES
    ]
    together = list(decode_shard(shard, storage, settings, codecs))
    for number, codec in enumerate(codecs):
        alone = list(decode_shard(shard, storage, settings, [codec]))
        own = [item for item in together if item.codec == number]
        assert isinstance(own[-1], ShardEnd)
        assert (own[-1].rejects, len(own)) == (alone[-1].rejects, len(alone))
        for batch, expected in zip(own[:-1], alone[:-1], strict=True):
            assert batch.rows.equals(expected.rows)
            assert batch.audio_N.tobytes() == expected.audio_N.tobytes()
            assert batch.num_frames_B.tolist() == expected.num_frames_B.tolist()
