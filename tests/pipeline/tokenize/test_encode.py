import time
from contextlib import closing
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from speechmill.codecs import codec_info, load_codec
from speechmill.codecs.shapes import ShapeSettings
from speechmill.pipeline.errors import ShardCut, StreamBroken
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.batching import BatchSettings
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation, decode_shard
from speechmill.pipeline.tokenize.device import pad_clips
from speechmill.pipeline.tokenize.encode import Tokenizer, tokenize_shard
from speechmill.pipeline.tokenize.encoders import BatchByBatch
from speechmill.pipeline.tokenize.schema import reject_schema, token_schema
from speechmill.pipeline.tokenize.writer import CodecOutput, PartWriter, read_footer
from tests.corpus import clip, tar_bytes, write_corpus
from tests.one_shard import PROVENANCE, tokenize_one


@pytest.fixture
def shard(tmp_path, storage):
    write_corpus(tmp_path / "in", num_shards=1, clips_per_shard=12, seconds=0.8)
    return list_shards([str(tmp_path / "in")], storage)[0]


def tensors(batch):
    lengths_B = torch.from_numpy(batch.num_samples_B)
    return pad_clips(torch.from_numpy(batch.audio_N), lengths_B.tolist()), lengths_B


def part(output, shard):
    return output / "tokens" / f"{shard.name}.parquet"


def test_a_part_has_one_row_per_utterance_in_the_order_of_the_tar(
    tmp_path, storage, shard, null_codec
):
    report = tokenize_one(shard, str(tmp_path), storage, null_codec)
    table = pq.read_table(part(tmp_path, shard))
    assert table.schema.equals(token_schema(null_codec.info.codebook_sizes))
    assert table["index"].to_pylist() == list(range(12)) == list(range(report.rows))
    assert sum(table["num_frames"].to_pylist()) == report.frames
    for row in table.to_pylist():
        assert row["num_frames"] == null_codec.info.num_frames(round(row["duration"] * 16_000))
        assert len(row["codes"]) == row["num_frames"] * row["num_codebooks"]
        assert max(row["codes"]) < 1024


@pytest.mark.parametrize("codec_name", ["null", "pure-16k-small"])
def test_tokens_do_not_depend_on_the_batches(tmp_path, storage, shard, codec_name):
    codec = load_codec(codec_name)
    tables = []
    for name, seconds in (("alone", 0.01), ("few", 2.0), ("all", 60.0)):
        settings = DecodeSettings(batch=BatchSettings(seconds, 1280.0))
        tokenize_one(shard, str(tmp_path / name), storage, codec, settings)
        tables.append(pq.read_table(part(tmp_path / name, shard)))
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])


class SlowStorage(Storage):
    """Takes its time to begin a tar and to put a part."""

    def stream(self, url, version=None):
        time.sleep(0.2)
        return super().stream(url, version)

    def put_new(self, url, data):
        time.sleep(0.3)
        return super().put_new(url, data)


def test_a_report_says_how_long_reading_and_writing_took(tmp_path, storage, null_codec, shard):
    fast = tokenize_one(shard, str(tmp_path / "fast"), storage, null_codec)
    slow = tokenize_one(shard, str(tmp_path / "slow"), SlowStorage(), null_codec)
    assert fast.read_seconds > 0
    assert fast.write_seconds > 0
    assert slow.read_seconds >= 0.2
    assert slow.write_seconds >= 0.3


def test_codes_are_flat_and_frame_major(tmp_path, storage, null_codec):
    storage.put("memory://major/a.tar", tar_bytes([("a.flac", clip(0.5))]))
    [shard] = list_shards(["memory://major/a.tar"], storage)
    settings = DecodeSettings()
    [batch, _] = decode_shard(shard, storage, settings, [null_codec.info])
    codes_BKF = null_codec.encode(*tensors(batch))
    tokenize_one(shard, str(tmp_path), storage, null_codec)
    [row] = pq.read_table(part(tmp_path, shard)).to_pylist()
    codes_FK = np.array(row["codes"]).reshape(row["num_frames"], row["num_codebooks"])
    np.testing.assert_array_equal(codes_FK, codes_BKF[0].T.numpy())


def test_the_same_shard_gives_the_same_bytes(tmp_path, storage, shard, null_codec):
    files = []
    for name in ("one", "two"):
        tokenize_one(shard, str(tmp_path / name), storage, null_codec)
        files.append(part(tmp_path / name, shard).read_bytes())
    assert files[0] == files[1]


def test_the_footer_says_where_the_tokens_come_from(tmp_path, storage, shard, null_codec):
    report = tokenize_one(shard, str(tmp_path), storage, null_codec)
    footer = read_footer(part(tmp_path, shard).read_bytes())
    assert footer["codec"]["revision"] == null_codec.info.revision
    assert footer["source"] == {"url": shard.url, "size": shard.size, "etag": shard.etag}
    assert (footer["rows"], footer["frames"]) == (report.rows, report.frames)
    assert footer["device"] == "cpu"
    assert {"torch", "libsndfile", "speechmill"} <= footer["libraries"].keys()


def test_an_empty_shard_is_a_part_with_0_rows(tmp_path, storage, null_codec):
    storage.put("memory://empty/a.tar", tar_bytes([]))
    [shard] = list_shards(["memory://empty/a.tar"], storage)
    assert tokenize_one(shard, str(tmp_path), storage, null_codec).rows == 0
    assert len(pq.read_table(part(tmp_path, shard))) == 0


def test_a_cut_shard_leaves_no_file(tmp_path, storage, null_codec):
    whole = tar_bytes([(f"{i}.flac", clip(0.4, i)) for i in range(4)])
    storage.put("memory://cut/a.tar", whole[: len(whole) // 2])
    [shard] = list_shards(["memory://cut/a.tar"], storage)
    with pytest.raises(ShardCut):
        tokenize_one(shard, str(tmp_path / "out"), storage, null_codec)
    assert not (tmp_path / "out").exists()


def test_batches_that_end_before_the_shard_are_not_committed(tmp_path, storage, shard, null_codec):
    batches = list(decode_shard(shard, storage, DecodeSettings(), [null_codec.info]))[:-1]
    writer = PartWriter(str(tmp_path / "out"), shard, storage, null_codec.info, PROVENANCE)
    with pytest.raises(StreamBroken):
        tokenize_shard(batches, BatchByBatch(null_codec), writer)
    assert not (tmp_path / "out").exists()


def test_rejects_are_written_with_all_their_columns(tmp_path, storage, null_codec):
    members = [("ok.flac", clip()), ("bad.flac", b"junk"), ("../up.flac", clip())]
    storage.put("memory://rejects/a.tar", tar_bytes(members))
    [shard] = list_shards(["memory://rejects/a.tar"], storage)
    report = tokenize_one(shard, str(tmp_path), storage, null_codec)
    assert report.rejects == {"UndecodableAudio": 1, "UnsafeMember": 1}
    table = pq.read_table(tmp_path / "rejects" / f"{shard.name}.parquet")
    assert table.column_names == reject_schema(1).names
    assert table["member"].to_pylist() == ["bad.flac", "../up.flac"]
    assert table["index"].to_pylist() == [1, 2]


@pytest.mark.parametrize(
    ("size", "kind", "encoding"),
    [
        (1024, pa.uint16(), "RLE_DICTIONARY"),
        (65_536, pa.uint16(), "BYTE_STREAM_SPLIT"),
        (65_537, pa.uint32(), "BYTE_STREAM_SPLIT"),
    ],
)
def test_the_type_and_encoding_of_codes_fit_the_size_of_the_codebook(
    tmp_path, storage, shard, null_codec, size, kind, encoding
):
    info = replace(null_codec.info, codebook_sizes=(size,) * 8)
    batches = decode_shard(shard, storage, DecodeSettings(), [info])
    writer = PartWriter(str(tmp_path), shard, storage, info, {})
    tokenize_shard(batches, BatchByBatch(null_codec), writer)
    assert pq.read_table(part(tmp_path, shard)).field("codes").type.value_type == kind
    column = pq.ParquetFile(part(tmp_path, shard)).metadata.row_group(0).column(1)
    assert column.path_in_schema == "codes.list.element"
    assert encoding in column.encodings


def test_a_clip_too_short_for_one_frame_is_rejected(tmp_path, storage, null_codec):
    floor = replace(codec_info("null"), frame_offset=0, min_frames=0)
    storage.put("memory://short/a.tar", tar_bytes([("a.flac", clip(0.01))]))
    [shard] = list_shards(["memory://short/a.tar"], storage)
    [end] = decode_shard(shard, storage, DecodeSettings(), [floor])
    assert [reject.error for reject in end.rejects] == ["EmptyAudio"]


def test_batches_of_fixed_shapes_that_shards_share_give_the_same_tokens(tmp_path, storage, shard):
    info, tables = codec_info("pure-16k-small"), []
    options = {"name": "pure-16k-small", "device": "cpu", "precision": "fp32"}
    for name, batch in (("plain", None), ("fixed", ShapeSettings(seconds=5.0))):
        output = CodecOutput(str(tmp_path / name), info, options, batch=batch)
        with closing(Tokenizer([output], storage, DecodeSettings())) as tokenizer:
            tokenizer(shard, lambda decode, *rest: decode(*rest), Isolation.NONE, [0])
        tables.append(pq.read_table(part(tmp_path / name, shard)))
    assert tables[0].equals(tables[1])
    footer = read_footer(part(tmp_path / "fixed", shard).read_bytes())
    assert footer["batch"] == asdict(ShapeSettings(seconds=5.0))
