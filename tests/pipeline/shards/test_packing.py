import hashlib
import json
import os
import tarfile
from pathlib import Path

import pytest

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.shards.packing import (
    PackSettings,
    pack_files,
    pack_shards,
    plan_pack,
    plan_shards,
)
from speechmill.pipeline.shards.tar_reader import Sample, read_samples
from speechmill.pipeline.storage import Storage
from tests.packed import contents, pack, samples_in, write_files
from tests.s3_server import S3Server

SAMPLES = Path(__file__).parents[3] / "samples"


def test_packing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    pack(SAMPLES / "manifest.jsonl", tmp_path / "one", shard_mb=0.3)
    pack(SAMPLES / "manifest.jsonl", tmp_path / "two", shard_mb=0.3)

    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) > 4


def test_bytes_of_audio_and_columns_of_the_manifest_arrive(tmp_path: Path) -> None:
    packed = samples_in(pack(SAMPLES / "manifest.jsonl", tmp_path, shard_mb=0.3))

    rows = [json.loads(line) for line in (SAMPLES / "manifest.jsonl").open(encoding="utf-8")]
    assert len(packed) == len(rows)
    for row in rows:
        path = row.pop("path")
        members = packed[path.rpartition(".")[0]]
        assert members.pop(path.rpartition(".")[2]) == (SAMPLES / path).read_bytes()
        assert json.loads(members.pop("json")) == row
        assert not members


def test_headers_hold_neither_a_time_nor_an_owner(tmp_path: Path) -> None:
    (shard,) = pack(SAMPLES / "manifest.jsonl", tmp_path)
    with tarfile.open(shard.url) as tar:
        members = tar.getmembers()

    assert [m.name for m in members] == sorted(m.name for m in members)
    seen = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members}
    assert seen == {(0, 0, 0, "", "", 0o644)}


def test_a_second_run_skips_everything(tmp_path: Path) -> None:
    first = pack(SAMPLES, tmp_path, shard_mb=0.3)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    second = pack(SAMPLES, tmp_path, shard_mb=0.3)

    assert [shard.skipped for shard in first] == [False] * len(first)
    assert [shard.skipped for shard in second] == [True] * len(first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"cut")])
def test_only_a_lost_or_cut_tar_is_written_again(tmp_path: Path, damage) -> None:
    pack(SAMPLES, tmp_path, shard_mb=0.3)
    before = contents(tmp_path)
    damage(tmp_path / "shard-000001.tar")

    again = pack(SAMPLES, tmp_path, shard_mb=0.3)

    assert [shard.url[-8:-4] for shard in again if not shard.skipped] == ["0001"]
    assert contents(tmp_path) == before


def test_stopping_after_any_shard_and_going_on_equals_one_run(tmp_path: Path) -> None:
    whole = pack(SAMPLES, tmp_path / "whole", shard_mb=0.3)
    for stop in range(1, len(whole)):
        output = tmp_path / f"stopped-{stop}"
        shards = pack_files(PackSettings(str(SAMPLES), str(output), shard_mb=0.3), Storage())
        for _ in range(stop):
            next(shards)
        shards.close()

        resumed = pack(SAMPLES, output, shard_mb=0.3)

        assert sum(shard.skipped for shard in resumed) == stop
        assert contents(output) == contents(tmp_path / "whole")


def test_a_pack_that_commit_3ee6561_began_is_finished_with_the_same_bytes(tmp_path: Path) -> None:
    """Its plan and tars have these digests: the existing tars are skipped, and the others equal."""
    sizes = {"a/ł.wav": 700, "b.flac": 3000, "b.json": 20, "x" * 120 + ".mp3": 5, "c.wav": 4000}
    for path in write_files(tmp_path / "in", sizes).rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    pack(tmp_path / "in", tmp_path / "out", shard_mb=0.006)
    digests = {
        name: hashlib.sha256(data).hexdigest()[:16]
        for name, data in contents(tmp_path / "out").items()
    }
    assert digests == {
        "pack.json": "ed264f1fa453fb08",
        "shard-000000.tar": "8f1e862430d05dde",
        "shard-000001.tar": "80026d09e5fbf827",
        "shard-000002.tar": "43c4f7f5f8ce5d32",
        "shard-000003.tar": "fa746b16eb8d2458",
    }


def test_tars_fill_the_target_and_do_not_exceed_it(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {f"{i:03}.wav": 1000 + i * 7 for i in range(300)})

    shards = pack(source, tmp_path / "out", shard_mb=0.1)

    padding = tarfile.RECORDSIZE + 2 * tarfile.BLOCKSIZE
    assert all(shard.bytes <= 100_000 + padding for shard in shards)
    assert all(shard.bytes >= 90_000 for shard in shards[:-1])
    assert [Path(s.url).stat().st_size for s in shards] == [s.bytes for s in shards]
    assert sum(shard.clips for shard in shards) == 300


def test_a_clip_larger_than_the_target_gets_a_tar_of_its_own(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 10, "b.wav": 50_000, "c.wav": 10})

    assert [shard.clips for shard in pack(source, tmp_path / "out", shard_mb=0.01)] == [1, 1, 1]


@pytest.mark.parametrize("blocks", range(21))
def test_planned_size_holds_wherever_the_last_record_ends(tmp_path: Path, blocks: int) -> None:
    source = write_files(tmp_path / "in", {"a.wav": blocks * tarfile.BLOCKSIZE})

    (shard,) = pack(source, tmp_path / "out")

    assert Path(shard.url).stat().st_size == shard.bytes


def test_planned_size_holds_for_long_and_foreign_names(tmp_path: Path) -> None:
    names = {"ł" * 60 + "/" + "ż" * 100 + ".wav": 3, "x" * 120 + "/" + "y" * 90 + ".wav": 4}
    names |= {f"ł{i}.wav": 5 for i in range(20)}
    source = write_files(tmp_path / "in", names)

    (shard,) = pack(source, tmp_path / "out")

    assert Path(shard.url).stat().st_size == shard.bytes
    assert set(samples_in([shard])) == {name.removesuffix(".wav") for name in names}


def test_the_reader_of_this_package_takes_every_packed_clip(tmp_path: Path) -> None:
    packed = pack(SAMPLES, tmp_path, shard_mb=0.5)

    shards = list_shards([str(tmp_path)], Storage())
    samples = [s for shard in shards for s in read_samples(shard, Storage(), 2**30)]

    assert [shard.url for shard in shards] == [shard.url for shard in packed]
    assert all(isinstance(sample, Sample) for sample in samples)
    assert len(samples) == sum(shard.clips for shard in packed) == 30


def test_a_file_that_becomes_a_link_while_packing_is_refused(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1})
    write_files(tmp_path, {"private.wav": 1})
    plan = plan_pack(PackSettings(str(source), str(tmp_path / "out")), Storage())
    (source / "a.wav").unlink()
    (source / "a.wav").symlink_to("../private.wav")
    with pytest.raises(InputError, match="has become a link"):
        list(pack_shards(plan.shards, str(tmp_path / "out"), Storage()))


def test_packs_from_s3_to_s3_as_on_a_local_disk(
    tmp_path: Path, moto: S3Server, moto_bucket: str
) -> None:
    storage = Storage({"s3": moto.storage_options})
    names = ["manifest.jsonl", "en/no.flac", "de/ja.wav", "es/si.mp3"]
    for name in names:
        storage.put(f"{moto_bucket}/in/{name}", (SAMPLES / name).read_bytes())
    rows = (SAMPLES / "manifest.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = "".join(row for row in rows if json.loads(row)["path"] in names)
    storage.put(f"{moto_bucket}/in/manifest.jsonl", kept.encode())
    settings = PackSettings(f"{moto_bucket}/in/manifest.jsonl", f"{moto_bucket}/out", shard_mb=0.01)

    remote = list(pack_files(settings, storage))

    for name in names:
        storage.put(str(tmp_path / name), storage.read_bytes(f"{moto_bucket}/in/{name}"))
    local = pack(tmp_path / "manifest.jsonl", tmp_path / "out", shard_mb=0.01)
    assert len(remote) == 3
    assert [storage.read_bytes(s.url) for s in remote] == [storage.read_bytes(s.url) for s in local]
    assert all(shard.skipped for shard in pack_files(settings, storage))


def test_two_files_of_one_key_are_both_named(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"utt.001.flac": 1, "utt_001.wav": 1})
    with pytest.raises(InputError, match=r"utt\.001\.flac and .*utt_001\.wav .*key 'utt_001'"):
        pack(source, tmp_path / "out")


def test_the_plan_holds_the_time_of_a_file_also_if_it_is_0(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.flac": 900, "b.flac": 900})
    for _ in range(2):
        for path in source.iterdir():
            os.utime(path, (0, 0))  # the time of the change of the file itself is now another
        shards = pack(source, tmp_path / "out")
    assert [shard.skipped for shard in shards] == [True]


def test_an_output_of_another_plan_is_refused_untouched(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1, "b.wav": 1})
    pack(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    (source / "a.wav").write_bytes(b"another")

    with pytest.raises(InputError, match=r"pack\.json is the plan of another pack"):
        pack(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_foreign_tar_at_the_output_is_not_overwritten(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1})
    write_files(tmp_path / "out", {"shard-000000.tar": 9})
    with pytest.raises(InputError, match=r"holds shard-000000\.tar but no pack\.json"):
        pack(source, tmp_path / "out")


def test_a_file_that_changes_while_packing_is_noticed(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1, "b.wav": 1})
    shards = pack_files(PackSettings(str(source), str(tmp_path / "out"), shard_mb=0.001), Storage())
    next(shards)
    (source / "b.wav").write_bytes(b"longer")
    with pytest.raises(InputError, match=r"b\.wav had 1 bytes .* and has 6 now"):
        next(shards)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shard_mb": 0}, "shard_mb is 0"),
        ({"pattern": "shard.tar"}, r"pattern is 'shard\.tar'"),
        ({"pattern": "shard-%06d.zip"}, "pattern is"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PackSettings("in", "out", **settings)


def test_the_plan_reads_no_audio(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1, "b.wav": 2})

    class ListingOnly(Storage):
        def read_bytes(self, url: str) -> bytes:
            raise AssertionError(f"read {url}")

    (shard,) = plan_shards(PackSettings(str(source), "unused"), ListingOnly())
    assert [sample.key for sample in shard.samples] == ["a", "b"]
