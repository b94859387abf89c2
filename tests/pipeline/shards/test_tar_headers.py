"""Headers of all formats are read, and no header of a stranger crashes or stalls the reader."""

import io
import tarfile
import time
from itertools import cycle

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speechmill.pipeline.errors import ShardCut, ShardDamaged, ShardError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.shards.tar_reader import Sample, TarCounts, read_samples
from speechmill.pipeline.storage import Storage
from tests.corpus import tar_bytes

NAMES = ["a.wav", "deep/" * 30 + "b.wav", "c" * 120 + ".wav", "日本語" * 60 + ".wav", "./d.WAV"]
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def read(data: bytes, **options):
    storage = Storage()
    storage.put("memory://headers/a.tar", data)
    [shard] = list_shards(["memory://headers/a.tar"], storage)
    return list(read_samples(shard, storage, 10**9, **options))


def with_checksum(block: bytes) -> bytes:
    total = sum(block[:148]) + sum(block[156:512]) + 8 * ord(" ")
    return block[:148] + f"{total:06o}\0 ".encode() + block[156:]


def header(name=b"h.wav", size=b"00000000004\0", kind=b"0", more=b"") -> bytes:
    """One header with these fields, and what follows it up to a whole block."""
    block = bytearray(512)
    block[: len(name)] = name
    block[124 : 124 + len(size)] = size
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    return with_checksum(bytes(block)) + more + bytes(-len(more) % 512)


def extension(kind: bytes, content: bytes) -> bytes:
    return header(b"ext", f"{len(content):011o}\0".encode(), kind, content)


GOOD = tar_bytes([("good.wav", b"1234")])[:1024]
LAST = header(b"h.wav", more=b"wave") + bytes(1024)
DAMAGE = {
    "negative size": header(size=b"-0000001000\0"),
    "negative size in base 256": header(size=b"\xff" * 12),
    "no octal size": header(size=b"99999999999\0"),
    "no checksum": header()[:148] + b"12 34\0\0\0" + header()[156:],
    "a PAX record without its length": extension(b"x", b"path=x.wav\n"),
    "digits without end": extension(b"x", b"1" * 200_000),
    "a PAX record that is longer than its header": extension(b"x", b"99 path=x.wav\n"),
    "a negative PAX size": extension(b"x", b"11 size=-5\n"),
    "a PAX size without end": extension(b"x", b"1017 size=" + b"9" * 1006 + b"\n"),
    "a large extension": extension(b"x", b"%d path=" % 2_000_013 + b"x" * 2_000_000 + b"\n"),
    "a path for all members": extension(b"g", b"14 path=x.wav\n"),
    "a keyword of any bytes": extension(b"g", b"22 GNU.sparse.\xff\xfe=1234\n"),
    "chained extensions": extension(b"L", b"x.wav\0") * 1000,
    "chained global headers": extension(b"g", b"12 comment=\n") * 1000,
    "an extension at the end": extension(b"x", b"14 path=x.wav\n") + bytes(1024),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_header_is_refused_at_once_with_its_byte(damage):
    started = time.process_time()
    with pytest.raises(ShardDamaged, match=r"at byte \d+"):
        read(GOOD + damage + LAST)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + b"\xff" * 11])
def test_a_member_larger_than_its_tar_says_where_its_header_is(size):
    with pytest.raises(ShardCut, match="header is at byte 1024"):
        read(GOOD + header(size=size) + LAST)


def test_a_sparse_file_costs_itself_however_long_its_map_is():
    block = bytearray(header(b"s.wav", kind=b"S"))
    block[482] = 1
    old = with_checksum(bytes(block)) + (b"\1" * 512) * 3000 + bytes(512) + b"data" + bytes(508)
    record = b"GNU.sparse.map=" + b"0,1," * 100_000
    record = b"%d " % (len(record) + 8) + record + b"\n"
    for sparse in (old, extension(b"x", record) + header(b"s.wav", more=b"data")):
        found = read(GOOD + sparse + LAST)
        assert [getattr(item, "error", "") for item in found] == ["", "UnsafeMember", ""]


def test_sizes_in_base_256_and_in_pax_records_are_read():
    record = extension(b"x", b"10 size=4\n")
    for member in (header(size=b"\x80" + b"\0" * 10 + b"\4"), record + header(size=b"0\0")):
        [_, sample] = read(GOOD + member + b"wave" + bytes(508 + 1024))
        assert sample.members == {"wav": b"wave"}


@pytest.mark.parametrize("form", FORMATS)
def test_tars_of_all_formats_give_the_members_of_tarfile(form):
    names = [name for name in NAMES if form != tarfile.USTAR_FORMAT or len(name.encode()) < 160]
    names = [name for name in names if form != tarfile.USTAR_FORMAT or "c" * 120 not in name]
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=form, pax_headers={"comment": "all"}) as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(name), 1.5 if form == tarfile.PAX_FORMAT else 1
            tar.addfile(info, io.BytesIO(b"x" * len(name)))
    found = read(sink.getvalue())
    assert [f"{sample.key}.wav" for sample in found] == [
        name.replace("WAV", "wav") for name in names
    ]
    assert [len(sample.members["wav"]) for sample in found] == [len(name) for name in names]


def test_a_name_that_is_not_utf8_is_cleaned_and_counted():
    counts = TarCounts()
    [sample] = read(header(b"espa\xf1ol.wav", more=b"wave") + bytes(1024), counts=counts)
    assert (sample.key, counts.cleaned) == ("espa\ufffdol", 1)


def test_two_names_that_cleaning_makes_equal_are_a_duplicate_key():
    other = header(b"x\xf2.wav", more=b"wave")
    found = read(header(b"x\xf1.wav", more=b"wave") + GOOD + other + bytes(1024))
    assert [getattr(item, "error", "") for item in found] == ["", "", "DuplicateKey"]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x1f\x8b\x08\0" * 200, "gzip"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        (b"\n<!DOCTYPE html><title>403</title>" + b" " * 600, "HTML"),
    ],
)
def test_a_file_that_is_no_tar_is_said_to_be_what_it_is(data, what):
    with pytest.raises(ShardDamaged, match=what):
        read(data)


def test_names_like_those_of_other_formats_are_names():
    assert read(tar_bytes([("BZh.wav", b"1"), ("<html.wav", b"2")]))[0].key == "BZh"


TINY = tar_bytes([(f"{key}.{suffix}", b"x" * 3) for key in "ab" for suffix in ("wav", "é" * 60)])
WHOLE = [(sample.key, sample.members) for sample in read(TINY)]
PARTS = [TINY, TINY[:512], TINY[512:], bytes(512)]
END = len(TINY.rstrip(b"\0")) // 512 * 512 + 512  # of the last member


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_a_cut_extended_joined_or_flipped_tar_is_refused_or_gives_samples_and_rejects(data):
    tar = bytearray(TINY)
    flips = data.draw(st.integers(0, 3))
    for _ in range(flips):
        tar[data.draw(st.integers(0, END))] ^= 1 << data.draw(st.integers(0, 7))
    del tar[data.draw(st.one_of(st.just(len(TINY)), st.integers(0, len(TINY)))) :]
    tar += data.draw(st.one_of(st.just(b""), st.binary(max_size=1500), st.sampled_from(PARTS)))
    try:
        found = read(bytes(tar))
    except ShardError:
        return
    members = [(sample.key, sample.members) for sample in found if isinstance(sample, Sample)]
    if members == WHOLE and not flips:  # only zeros at its end may differ
        assert tar.rstrip(b"\0") == TINY.rstrip(b"\0")
        assert len(tar) >= END + 512


def test_reading_takes_time_in_proportion_to_the_tar():
    """A PAX header of each size, full of the shortest records."""
    seconds = []
    for count in (20_000, 80_000):
        records = b"".join(b"5 %c=\n" % letter for letter, _ in zip(cycle(b"ab"), range(count)))
        data = extension(b"x", records) + LAST
        started = time.process_time()
        read(data)
        seconds.append(time.process_time() - started)
    assert seconds[1] < 12 * seconds[0] + 0.5
