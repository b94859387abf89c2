"""One odd sample is a row or a reject, and its neighbours are rows."""

import hashlib
import io
import json
import os
import struct

import pyarrow.parquet as pq
import pytest

from speechmill.codecs import codec_info
from speechmill.pipeline.audio.filters import FilterSettings
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.audio.segment import SegmentSettings
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.shards.packing import PackSettings, pack_files
from speechmill.pipeline.tokenize.batching import BatchSettings, ShardEnd
from speechmill.pipeline.tokenize.decode import DecodeSettings, decode_shard
from tests.corpus import clip, encode, tar_bytes, tone
from tests.one_shard import tokenize_one

AUDIO = clip(0.3)


def decode(members, storage, settings=None):
    """Rows by key and the end of a shard in which good samples surround the members."""
    around = [("aaa.flac", AUDIO), *members, ("zzz.flac", AUDIO)]
    storage.put("memory://odd/a.tar", tar_bytes(around))
    [shard] = list_shards(["memory://odd/a.tar"], storage)
    *batches, end = decode_shard(shard, storage, settings or DecodeSettings(), [codec_info("null")])
    assert isinstance(end, ShardEnd)
    found = [row for batch in batches for row in batch.rows.to_pylist()]
    return found, end


def wav(num_channels: int, rate: int = 16_000) -> bytes:
    data = bytes(2 * num_channels * 1600)
    head = struct.pack("<HHIIHH", 1, num_channels, rate, 0, 2 * num_channels & 0xFFFF, 16)
    body = (
        b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", len(data)) + data
    )
    return b"RIFF" + struct.pack("<I", len(body)) + body


DEEP = b"[" * 100_000
JSON = {
    "half a character": rb'{"text": "laugh \ud83d"}',
    "a huge number": b'{"text": "x", "n": ' + b"9" * 10_000 + b"}",
    "depth": DEEP,
    "a number as a text": b'{"text": 5}',
    "keys that come twice": b'{"text": "a", "text": null}',
    "NaN": b'{"text": "x", "n": NaN, "i": -Infinity, "e": 1e400}',
    "no UTF-8": b'{"text": "a\xf1o"}',
    "NUL": b'{"text": "\\u0000"}\0',
}


@pytest.mark.parametrize("data", JSON.values(), ids=JSON)
def test_json_of_any_kind_costs_no_row(storage, data):
    found, end = decode([("h.flac", AUDIO), ("h.json", data)], storage)
    assert sorted(row["key"] for row in found) == ["aaa", "h", "zzz"]
    assert end.rejects == []
    for row in found:
        f"{row['text']}{row['metadata']}".encode()


@pytest.mark.parametrize("data", JSON.values(), ids=JSON)
def test_a_filter_on_json_of_any_kind_costs_only_its_sample(storage, data):
    settings = DecodeSettings(
        filters=FilterSettings(metadata="n is None or n > 3 or lower(text) == 'x'")
    )
    found, end = decode([("h.flac", AUDIO), ("h.json", data)], storage, settings)
    assert {"aaa", "zzz"} <= {row["key"] for row in found}
    assert len(found) + len(end.rejects) == 3


@pytest.mark.parametrize(
    "start", ["NaN", "1e308", "-1", '"0"', "true", "null", "1e400", "[0]", "9" * 5000]
)
def test_a_start_that_is_no_time_rejects_its_recording(storage, start):
    members = [("h.flac", AUDIO), ("h.json", f'{{"start": [{start}], "end": [0.2]}}'.encode())]
    settings = DecodeSettings(segment=SegmentSettings(by="metadata"))
    around = [
        (f"{key}.{suffix}", data)
        for key in ("b", "y")
        for suffix, data in (("flac", AUDIO), ("json", b'{"start": [0], "end": [0.2]}'))
    ]
    found, end = decode([*around[:2], *members, *around[2:]], storage, settings)
    assert [row["key"] for row in found] == ["b", "y"]
    assert [(r.key, r.error) for r in end.rejects if r.key == "h"] == [("h", "BadSegments")]


@pytest.mark.parametrize("suffix", ["json", "txt"])
def test_text_over_its_limit_is_a_reject_that_names_it_and_is_not_read(storage, suffix):
    settings = DecodeSettings(limits=Limits(metadata_mb=0.001))
    found, end = decode([("h.flac", AUDIO), (f"h.{suffix}", b"x" * 1001)], storage, settings)
    assert [row["key"] for row in found] == ["aaa", "zzz"]
    [reject] = end.rejects
    assert reject.error == "OversizedMetadata"
    assert "limits.metadata_mb is 0.001" in reject.message


@pytest.mark.parametrize("data", [wav(256), wav(1, 2**31)])
def test_audio_that_no_column_holds_is_a_reject(storage, data):
    found, end = decode([("h.wav", data)], storage)
    assert [row["key"] for row in found] == ["aaa", "zzz"]
    [reject] = end.rejects
    assert reject.key == "h"
    assert reject.message


def test_an_error_without_words_says_its_kind(storage, monkeypatch):
    def fail(*_):
        raise MemoryError

    monkeypatch.setattr("speechmill.pipeline.tokenize.describe.json.loads", fail)
    found, end = decode([("h.flac", AUDIO), ("h.json", b"{}")], storage)
    assert [row["key"] for row in found] == ["aaa", "zzz"]
    assert [r.message for r in end.rejects] == ["its JSON or text does not fit into memory"]


def test_members_of_macos_are_passed_over_and_the_text_is_kept(storage):
    names = ["._h.flac", "h.flac", "._h.txt", "h.txt", "__MACOSX/d/h.flac", "d/._h.flac"]
    members = [(name, AUDIO if name == "h.flac" else b"one") for name in names]
    found, end = decode(members, storage)
    assert [(row["key"], row["text"]) for row in found if row["key"] == "h"] == [("h", "one")]
    assert (end.rejects, end.num_passed_over) == ([], 4)


def test_several_audio_members_are_a_reject_each_unless_one_is_chosen(storage):
    members = [("h.left.flac", AUDIO), ("h.right.flac", AUDIO)]
    _, end = decode(members, storage)
    assert [(r.key, r.member) for r in end.rejects] == [("h", "h.left.flac"), ("h", "h.right.flac")]
    assert "keys end at the first dot" in end.rejects[0].message
    members.insert(1, ("h.left.json", b'{"text": "mine"}'))
    found, _ = decode(members, storage, DecodeSettings(audio=AudioSettings(member="left.flac")))
    assert [row["text"] for row in found if row["key"] == "h"] == ["mine"]


def test_texts_of_any_encoding_are_cleaned_and_counted(storage):
    texts = {
        "a": b"\xef\xbb\xbfbom",
        "b": b"a\xf1o",
        "c": b"line\r\n",
        "d": "wide".encode("utf-16"),
    }
    members = [
        member
        for key, text in texts.items()
        for member in ((f"{key}.flac", AUDIO), (f"{key}.txt", text))
    ]
    found, end = decode(members, storage)
    kept = {row["key"]: row["text"] for row in found if row["text"] is not None}
    assert kept == {"a": "bom", "b": "a\ufffdo", "c": "line", "d": "wide"}
    assert end.num_cleaned == 1


def test_the_json_of_a_recording_is_stored_once_in_each_row_group(tmp_path, storage, null_codec):
    starts = [n / 10 for n in range(100)]
    said = {"start": starts, "end": [s + 0.1 for s in starts], "pad": "x" * 2_000_000}
    members = [("a.flac", encode(tone(10.1))), ("a.json", json.dumps(said).encode())]
    storage.put(f"{tmp_path}/a.tar", tar_bytes(members))
    [shard] = list_shards([f"{tmp_path}/a.tar"], storage)
    digests = set()
    for seconds in (1.0, 100.0):
        settings = DecodeSettings(
            segment=SegmentSettings(by="metadata"), batch=BatchSettings(seconds, 100.0)
        )
        output = f"{tmp_path}/{seconds}"
        tokenize_one(shard, output, storage, null_codec, settings)
        [info] = storage.list_files(f"{output}/tokens")
        part = storage.read_bytes(info.url)
        digests.add(hashlib.sha256(part).hexdigest())
    assert len(digests) == 1
    table = pq.read_table(io.BytesIO(part))
    assert str(table.schema.field("metadata").type) == "string"
    assert table["metadata"].to_pylist() == [json.dumps(said)] * 100
    chunk = pq.ParquetFile(io.BytesIO(part)).metadata.row_group(0).column(11)
    assert (chunk.path_in_schema, chunk.total_uncompressed_size < 2_100_000) == ("metadata", True)


def test_a_shard_whose_name_is_not_utf8_is_read_and_stored_as_utf8(tmp_path, storage, null_codec):
    dataset = TokenDataset(f"{tmp_path}/out", storage)
    (tmp_path / "in").mkdir()
    for name in (b"x\xf1.tar", b"x\xf2.tar"):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(tar_bytes([("a.flac", AUDIO)]))
    shards = list_shards([f"{tmp_path}/in"], storage)
    for shard in shards:
        tokenize_one(shard, dataset.root, storage, null_codec)
    parts = [path.name for path in (tmp_path / "out" / "tokens").iterdir()]
    assert len({name.encode() for name in parts}) == 2
    assert all(name.startswith("x\ufffd-") for name in parts)
    for row in pq.read_table(tmp_path / "out" / "tokens").to_pylist():
        row["shard"].encode()


def test_files_whose_names_are_not_utf8_are_packed_and_read_back(tmp_path, storage):
    (tmp_path / "in").mkdir()
    for name in (b"x\xf1.flac", b"x\xf1.txt", b"y.flac"):
        (tmp_path / "in" / os.fsdecode(name)).write_bytes(
            AUDIO if name.endswith(b"flac") else b"hola"
        )
    [packed] = pack_files(PackSettings(f"{tmp_path}/in", f"{tmp_path}/out"), storage)
    [shard] = list_shards([packed.url], storage)
    *batches, _ = decode_shard(shard, storage, DecodeSettings(), [codec_info("null")])
    found = [row for batch in batches for row in batch.rows.to_pylist()]
    assert {row["key"]: row["text"] for row in found} == {"x\ufffd": "hola", "y": None}


def test_a_manifest_with_half_a_character_is_packed(tmp_path, storage):
    (tmp_path / "a.flac").write_bytes(AUDIO)
    (tmp_path / "m.jsonl").write_text('{"path": "a.flac", "text": "laugh \\ud83d"}\n')
    [packed] = pack_files(PackSettings(f"{tmp_path}/m.jsonl", f"{tmp_path}/out"), storage)
    assert b"laugh \xef\xbf\xbd" in storage.read_bytes(packed.url)
