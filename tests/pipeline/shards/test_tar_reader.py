import contextlib
import gzip
import tracemalloc

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechmill.pipeline.errors import ShardChanged, ShardCut, ShardDamaged, ShardError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.shards.tar_reader import Reject, Sample, read_samples
from speechmill.pipeline.storage import Storage
from tests.corpus import tar_bytes

MEMBERS = [
    (f"speaker{'x' * 100}/{i}.{suffix}", bytes([i]) * (700 + i))
    for i in range(4)
    for suffix in ("flac", "json")
]


def read(data: bytes, max_member_bytes: int = 10**9) -> list[Sample | Reject]:
    storage = Storage()
    storage.put("memory://reader/a.tar", data)
    [shard] = list_shards(["memory://reader/a.tar"], storage)
    return list(read_samples(shard, storage, max_member_bytes))


def test_samples_are_those_of_webdataset(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar_bytes(MEMBERS))
    theirs = list(webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False))
    ours = read(tar_bytes(MEMBERS))
    assert [s.key for s in ours] == [s["__key__"] for s in theirs]
    assert [s.members["flac"] for s in ours] == [s["flac"] for s in theirs]
    assert [s.index for s in ours] == [0, 1, 2, 3]


def test_a_tar_cut_at_any_byte_before_its_end_marker_is_refused_with_that_byte():
    data = tar_bytes(MEMBERS)
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for cut in range(1, end, 119):
        with pytest.raises(ShardCut, match=r"byte \d+"):
            read(data[:cut])
    assert len(read(data[: end + 512])) == 4


def test_an_empty_tar_has_no_samples_and_an_empty_file_is_a_cut_one():
    assert read(tar_bytes([])) == []
    with pytest.raises(ShardCut):
        read(b"")


@pytest.mark.parametrize("where", [0, 2, 6])
def test_a_garbled_header_is_damage_not_the_end(where):
    data = bytearray(tar_bytes([(f"{i}.flac", b"x" * 512) for i in range(6)]))
    data[where * 512 : where * 512 + 512] = b"\xaa" * 512
    with pytest.raises(ShardDamaged, match=f"byte {where * 512}"):
        read(bytes(data))


def test_zeros_in_the_middle_and_concatenated_tars_do_not_lose_what_follows():
    data = tar_bytes([(f"{i}.flac", b"x" * 512) for i in range(6)])
    with pytest.raises(ShardDamaged, match="end marker at byte 2048"):
        read(data[:2048] + bytes(1024) + data[3072:])
    with pytest.raises(ShardDamaged, match="concatenated"):
        read(data + data)


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_mutated_tar_is_read_or_refused_but_raises_nothing_else(data):
    mutated = bytearray(tar_bytes(MEMBERS[:4]))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ShardError):
        read(bytes(mutated))


def rejects(members: list[tuple[str, bytes]], **options: int) -> list[tuple[str, str]]:
    found = read(tar_bytes(members), **options)
    return [(item.member, item.error) for item in found if isinstance(item, Reject)]


@pytest.mark.parametrize("name", ["../evil.flac", "a/../../evil.flac", "/etc/evil.flac"])
def test_a_name_that_points_out_of_the_archive_is_rejected(name):
    assert rejects([(name, b"1"), ("ok.flac", b"2")]) == [(name, "UnsafeMember")]


def test_a_name_without_key_is_rejected_and_the_next_sample_is_read():
    found = read(tar_bytes([("README", b"1"), (".hidden", b"2"), ("ok.flac", b"3")]))
    assert [type(item).__name__ for item in found] == ["Reject", "Reject", "Sample"]
    assert found[2].index == 2


def test_a_duplicate_key_is_one_reject_and_the_first_sample_stays():
    twice = [("a.flac", b"1"), ("a.json", b"{}"), ("a.flac", b"2"), ("a.json", b"[]")]
    found = read(tar_bytes([*twice, ("b.flac", b"3"), ("a.txt", b"4")]))
    assert [(i.key, getattr(i, "error", "")) for i in found] == [
        ("a", ""),
        ("a", "DuplicateKey"),
        ("b", ""),
        ("a", "DuplicateKey"),
    ]
    assert found[0].members == {"flac": b"1", "json": b"{}"}


def test_a_member_over_the_limit_is_rejected_without_being_read():
    members = [("big.flac", b"x" * 5000), ("small.flac", b"x")]
    assert rejects(members, max_member_bytes=4999) == [("big.flac", "OversizedAudio")]


def test_a_tar_that_was_replaced_after_listing_is_refused(tmp_path, storage):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(MEMBERS))
    [shard] = list_shards([str(path)], storage)
    path.write_bytes(tar_bytes(MEMBERS[:2]))
    with pytest.raises(ShardChanged):
        list(read_samples(shard, storage, 10**9))


def test_a_gzip_tar_gives_the_samples_of_the_tar_whatever_its_name_and_number_of_members():
    tar = tar_bytes(MEMBERS)
    parts = [gzip.compress(tar[:5000]), gzip.compress(b""), gzip.compress(tar[5000:])]
    for data in (gzip.compress(tar), b"".join(parts), gzip.compress(tar) + bytes(700)):
        assert read(data) == read(tar)
    assert [s.key for s in read(gzip.compress(tar), 701)] == [s.key for s in read(tar, 701)]


def test_a_gzip_tar_that_is_cut_or_extended_is_refused():
    tar = tar_bytes(MEMBERS)
    data = gzip.compress(tar, mtime=0)
    for cut in range(2, len(data)):
        with pytest.raises(ShardCut, match="cut"):
            read(data[:cut])
    for inner in (tar[:3000], tar[:512], tar[: len(tar) // 2]):
        with pytest.raises(ShardCut, match=r"a\.tar, unpacked, is cut at byte \d+"):
            read(gzip.compress(inner))
    for behind in (b"x", b"\0\0x", data[:1], tar):
        with pytest.raises(ShardDamaged, match="is damaged gzip"):
            read(data + behind)
    with pytest.raises(ShardDamaged, match="unpacked, has data after the end marker"):
        read(data + data)
    with pytest.raises(ShardDamaged, match="unpacked, is gzip"):
        read(gzip.compress(data))


def test_a_changed_byte_of_a_gzip_tar_is_damage_or_changes_nothing():
    tar = tar_bytes(MEMBERS)
    data, whole = gzip.compress(tar, mtime=0), read(tar)
    refused = 0
    for place in range(2, len(data), 2):
        try:
            assert read(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]) == whole
        except (ShardDamaged, ShardCut):
            refused += 1
    assert refused > 100


def test_a_huge_member_of_a_gzip_tar_is_passed_in_little_memory():
    tar = tar_bytes([("a.flac", b"a"), ("b.flac", bytes(2**26)), ("c.flac", b"c")])
    data = gzip.compress(tar, compresslevel=1)
    tracemalloc.start()
    kinds = [type(sample) for sample in read(data, 10**6)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert kinds == [Sample, Reject, Sample]
    assert peak < 2**23
