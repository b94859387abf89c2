"""Our reader and writer, compared with those of the `webdataset` library on the same tars."""

import io
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import webdataset as wds
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from speechmill.pipeline.errors import InputError, SampleError, ShardCut, ShardDamaged
from speechmill.pipeline.shards.webdataset import SampleWriter, StrictSamples
from tests.corpus import tar_bytes

MEMBERS = [
    (f"speaker{'x' * 100}/{i}.{suffix}", bytes([i]) * (700 + i))
    for i in range(6)
    for suffix in ("flac", "JSON", "take.2.wav")
]


@pytest.fixture
def urls(tmp_path):
    for number in range(3):
        members = [(f"{number}/{name}", data) for name, data in MEMBERS]
        (tmp_path / f"{number}.tar").write_bytes(tar_bytes(members))
    return [str(tmp_path / f"{number}.tar") for number in range(3)]


def samples(pipeline) -> list[dict]:
    return [{k: v for k, v in sample.items() if k != "__local_path__"} for sample in pipeline]


def test_samples_of_good_tars_are_those_of_webdataset(urls, tmp_path):
    theirs = samples(wds.WebDataset(urls, shardshuffle=False))
    assert len(theirs) == 18
    assert samples(wds.DataPipeline(StrictSamples(urls))) == theirs
    assert samples(wds.DataPipeline(StrictSamples(f"{tmp_path}/{{0..2}}.tar"))) == theirs
    after_a_list_of_shards = wds.DataPipeline(
        wds.SimpleShardList(urls), wds.split_by_node, wds.split_by_worker, StrictSamples()
    )
    assert samples(after_a_list_of_shards) == theirs


def test_loader_workers_share_the_shards(urls):
    pipeline = wds.DataPipeline(wds.SimpleShardList(urls), wds.split_by_worker, StrictSamples())
    loader = DataLoader(pipeline, batch_size=None, num_workers=2)
    keys = [sample["__key__"] for sample in loader]
    assert sorted(keys) == sorted(s["__key__"] for s in wds.WebDataset(urls, shardshuffle=False))


def test_a_tar_raises_if_webdataset_silently_loses_its_samples(urls):
    whole = tar_bytes([(f"{i}.flac", b"x" * 700) for i in range(6)])
    header = whole.index(b"4.flac")
    damaged = bytearray(whole)
    damaged[header : header + 512] = b"\xaa" * 512
    for data, error in ((whole[:header], ShardCut), (bytes(damaged), ShardDamaged)):
        Path(urls[1]).write_bytes(data)
        assert len(samples(wds.WebDataset(urls, shardshuffle=False))) == 12 + 4
        with pytest.raises(error, match=r"1\.tar"):
            samples(wds.DataPipeline(StrictSamples(urls)))


def test_a_handler_of_webdataset_may_skip_what_is_damaged(urls):
    with Path(urls[1]).open("r+b") as file:
        file.truncate(5000)
    skipping = StrictSamples(urls, handler=wds.ignore_and_continue)
    keys = [sample["__key__"] for sample in wds.DataPipeline(skipping)]
    assert (
        sum(key.startswith("0/") for key in keys) == sum(key.startswith("2/") for key in keys) == 6
    )
    stopping = StrictSamples(urls, handler=wds.ignore_and_stop)
    assert not any(s["__key__"].startswith("2/") for s in wds.DataPipeline(stopping))


def test_a_member_that_belongs_to_no_sample_is_an_error(tmp_path):
    (tmp_path / "a.tar").write_bytes(
        tar_bytes([("a.flac", b"1"), ("b.flac", b"2"), ("a.txt", b"3")])
    )
    with pytest.raises(SampleError, match=r"a\.txt: DuplicateKey"):
        samples(wds.DataPipeline(StrictSamples([str(tmp_path / "a.tar")])))


def test_a_stage_before_it_that_yields_no_urls_is_named():
    with pytest.raises(InputError, match="without `url`"):
        samples(wds.DataPipeline(lambda: [{"key": 1}], StrictSamples()))


def test_the_source_can_be_sent_to_another_process(urls):
    assert samples(pickle.loads(pickle.dumps(StrictSamples(urls)))()) == samples(
        StrictSamples(urls)()
    )


names = st.text("aéł./", min_size=1, max_size=150).filter(
    lambda name: not name.startswith("/") and ".." not in name.split("/")
)


@settings(max_examples=80)
@given(st.lists(st.tuples(names, st.sampled_from(["flac", "_x", "a.b"]), st.binary(max_size=2000))))
def test_written_tars_are_those_of_tarfile_byte_for_byte(members):
    """As earlier versions wrote them: PAX, no time, no owner."""
    ours, theirs = io.BytesIO(), io.BytesIO()
    with SampleWriter(ours) as tar:
        for key, suffix, data in members:
            tar.write(key, {suffix: data})
    with tarfile.open(fileobj=theirs, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for key, suffix, data in members:
            header = tarfile.TarInfo(f"{key}.{suffix}")
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    assert ours.getvalue() == theirs.getvalue()


def test_written_samples_keep_the_order_of_their_members_and_are_read_back(tmp_path):
    with (tmp_path / "a.tar").open("wb") as file, SampleWriter(file) as tar:
        tar.write("a", {"wav": b"1", "flac": b"2"})
        tar.write("b", {"flac": b"3"})
    with tarfile.open(tmp_path / "a.tar") as tar:
        assert tar.getnames() == ["a.wav", "a.flac", "b.flac"]
    found = samples(StrictSamples([str(tmp_path / "a.tar")])())
    assert [(s["__key__"], s["flac"]) for s in found] == [("a", b"2"), ("b", b"3")]


def test_a_written_key_with_a_decimal_point_is_read_back_with_its_text(tmp_path):
    with (tmp_path / "a.tar").open("wb") as file, SampleWriter(file) as tar:
        for key in ("v_0.00", "v_0.10"):
            tar.write(key, {"flac": b"1", "json": b"{}"})
    found = samples(StrictSamples([str(tmp_path / "a.tar")])())
    assert [(s["__key__"], s["json"]) for s in found] == [("v_0.00", b"{}"), ("v_0.10", b"{}")]


@pytest.mark.parametrize("suffix", ["", "__key__"])
def test_a_suffix_that_a_sample_cannot_hold_is_refused(suffix):
    tar = SampleWriter(io.BytesIO())
    with pytest.raises(SampleError, match="cannot be a member"):
        tar.write("a", {"flac": b"", suffix: b""})


@pytest.mark.parametrize("key", ["../x", "/x", "a/../../x"])
def test_a_key_that_points_out_of_the_archive_is_not_written(key):
    sink = io.BytesIO()
    with SampleWriter(sink) as tar, pytest.raises(SampleError, match="points out of the archive"):
        tar.write(key, {"flac": b""})
    assert key.encode() not in sink.getvalue()


def test_a_process_that_decodes_does_not_import_webdataset():
    code = "import sys, speechmill.pipeline.enhance.pairs, speechmill.pipeline.tokenize.decode"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; print('webdataset' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
