import csv
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import pytest
import webdataset
from rich.console import Console

from speechmill.jobs.commands.pack import pack_audio
from speechmill.jobs.config import from_overrides
from speechmill.jobs.display import Display
from speechmill.jobs.schemas import PackConfig
from speechmill.pipeline.audio.containers.recognize import AUDIO_SUFFIXES
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.audio_folder import (
    ALONE_LINE,
    LESS_USUAL,
    NO_LINE,
    WITHOUT_TEXT,
)
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.shards.packing import (
    PackedShard,
    PackSettings,
    pack_files,
    pack_shards,
    plan_pack,
    plan_shards,
    read_member,
)
from speechmill.pipeline.shards.tar_reader import Sample, read_samples
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.describe import audio_suffix
from tests.s3_server import S3Server

SAMPLES = Path(__file__).parents[3] / "samples"
ROWS = [
    {"path": "b/two.flac", "text": '"Two", she said.', "speaker": "Zoë"},
    {"path": "a/one.wav", "text": "one, and a comma", "speaker": "Ann"},
]


def write_files(folder: Path, sizes: dict[str, int]) -> Path:
    for number, (name, size) in enumerate(sizes.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number % 256]) * size)
    return folder


def write_manifest(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        elif path.suffix == ".tsv":
            file.writelines(
                "\t".join(cells) + "\n" for cells in [list(rows[0]), *map(dict.values, rows)]
            )
        else:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def run(source: object, output: object, **settings: object) -> list[PackedShard]:
    return list(pack_files(PackSettings(str(source), str(output), **settings), Storage()))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def samples_in(shards: Iterable[PackedShard]) -> dict[str, dict[str, bytes]]:
    """The samples that webdataset reads: the members of each key, by suffix."""
    dataset = webdataset.WebDataset(
        [shard.url for shard in shards], shardshuffle=False, empty_check=False
    )
    found = {}
    for sample in dataset:
        key = sample["__key__"]
        assert key not in found
        found[key] = {name: data for name, data in sample.items() if not name.startswith("__")}
    return found


def test_packing_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    run(SAMPLES / "manifest.jsonl", tmp_path / "one", shard_mb=0.3)
    run(SAMPLES / "manifest.jsonl", tmp_path / "two", shard_mb=0.3)

    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(contents(tmp_path / "one")) > 4


def test_bytes_of_audio_and_columns_of_the_manifest_arrive(tmp_path: Path) -> None:
    packed = samples_in(run(SAMPLES / "manifest.jsonl", tmp_path, shard_mb=0.3))

    rows = [json.loads(line) for line in (SAMPLES / "manifest.jsonl").open(encoding="utf-8")]
    assert len(packed) == len(rows)
    for row in rows:
        path = row.pop("path")
        members = packed[path.rpartition(".")[0]]
        assert members.pop(path.rpartition(".")[2]) == (SAMPLES / path).read_bytes()
        assert json.loads(members.pop("json")) == row
        assert not members


def test_headers_hold_neither_a_time_nor_an_owner(tmp_path: Path) -> None:
    (shard,) = run(SAMPLES / "manifest.jsonl", tmp_path)
    with tarfile.open(shard.url) as tar:
        members = tar.getmembers()

    assert [m.name for m in members] == sorted(m.name for m in members)
    seen = {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members}
    assert seen == {(0, 0, 0, "", "", 0o644)}


def test_a_second_run_skips_everything(tmp_path: Path) -> None:
    first = run(SAMPLES, tmp_path, shard_mb=0.3)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    second = run(SAMPLES, tmp_path, shard_mb=0.3)

    assert [shard.skipped for shard in first] == [False] * len(first)
    assert [shard.skipped for shard in second] == [True] * len(first)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"cut")])
def test_only_a_lost_or_cut_tar_is_written_again(tmp_path: Path, damage) -> None:
    run(SAMPLES, tmp_path, shard_mb=0.3)
    before = contents(tmp_path)
    damage(tmp_path / "shard-000001.tar")

    again = run(SAMPLES, tmp_path, shard_mb=0.3)

    assert [shard.url[-8:-4] for shard in again if not shard.skipped] == ["0001"]
    assert contents(tmp_path) == before


def test_stopping_after_any_shard_and_going_on_equals_one_run(tmp_path: Path) -> None:
    whole = run(SAMPLES, tmp_path / "whole", shard_mb=0.3)
    for stop in range(1, len(whole)):
        output = tmp_path / f"stopped-{stop}"
        shards = pack_files(PackSettings(str(SAMPLES), str(output), shard_mb=0.3), Storage())
        for _ in range(stop):
            next(shards)
        shards.close()

        resumed = run(SAMPLES, output, shard_mb=0.3)

        assert sum(shard.skipped for shard in resumed) == stop
        assert contents(output) == contents(tmp_path / "whole")


def test_a_pack_that_commit_3ee6561_began_is_finished_with_the_same_bytes(tmp_path: Path) -> None:
    """Its plan and tars have these digests: the existing tars are skipped, and the others equal."""
    sizes = {"a/ł.wav": 700, "b.flac": 3000, "b.json": 20, "x" * 120 + ".mp3": 5, "c.wav": 4000}
    for path in write_files(tmp_path / "in", sizes).rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    run(tmp_path / "in", tmp_path / "out", shard_mb=0.006)
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

    shards = run(source, tmp_path / "out", shard_mb=0.1)

    padding = tarfile.RECORDSIZE + 2 * tarfile.BLOCKSIZE
    assert all(shard.bytes <= 100_000 + padding for shard in shards)
    assert all(shard.bytes >= 90_000 for shard in shards[:-1])
    assert [Path(s.url).stat().st_size for s in shards] == [s.bytes for s in shards]
    assert sum(shard.clips for shard in shards) == 300


def test_a_clip_larger_than_the_target_gets_a_tar_of_its_own(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 10, "b.wav": 50_000, "c.wav": 10})

    assert [shard.clips for shard in run(source, tmp_path / "out", shard_mb=0.01)] == [1, 1, 1]


@pytest.mark.parametrize("blocks", range(21))
def test_planned_size_holds_wherever_the_last_record_ends(tmp_path: Path, blocks: int) -> None:
    source = write_files(tmp_path / "in", {"a.wav": blocks * tarfile.BLOCKSIZE})

    (shard,) = run(source, tmp_path / "out")

    assert Path(shard.url).stat().st_size == shard.bytes


def test_planned_size_holds_for_long_and_foreign_names(tmp_path: Path) -> None:
    names = {"ł" * 60 + "/" + "ż" * 100 + ".wav": 3, "x" * 120 + "/" + "y" * 90 + ".wav": 4}
    names |= {f"ł{i}.wav": 5 for i in range(20)}
    source = write_files(tmp_path / "in", names)

    (shard,) = run(source, tmp_path / "out")

    assert Path(shard.url).stat().st_size == shard.bytes
    assert set(samples_in([shard])) == {name.removesuffix(".wav") for name in names}


def test_dots_in_names_become_underscores(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"v1.0/utt.001.flac": 5, "v1.0/utt.001.txt": 2})

    packed = samples_in(run(source, tmp_path / "out"))

    assert packed == {"v1_0/utt_001": {"flac": b"\0" * 5, "txt": b"\1" * 2}}


def test_sidecars_are_packed_and_other_files_are_not(tmp_path: Path) -> None:
    files = {
        "a.WAV": 1,
        "a.json": 2,
        "b.wav": 3,
        "b.pdf": 4,
        "c.txt": 5,
        "._a.wav": 6,
        ".x/d.wav": 7,
    }
    source = write_files(tmp_path / "in", files)

    packed = samples_in(run(source, tmp_path / "out"))

    assert {key: set(members) for key, members in packed.items()} == {
        "a": {"wav", "json"},
        "b": {"wav"},
    }


def test_the_reader_of_this_package_takes_every_packed_clip(tmp_path: Path) -> None:
    packed = run(SAMPLES, tmp_path, shard_mb=0.5)

    shards = list_shards([str(tmp_path)], Storage())
    samples = [s for shard in shards for s in read_samples(shard, Storage(), 2**30)]

    assert [shard.url for shard in shards] == [shard.url for shard in packed]
    assert all(isinstance(sample, Sample) for sample in samples)
    assert len(samples) == sum(shard.clips for shard in packed) == 30


def test_jsonl_csv_and_tsv_give_the_same_tars(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/one.wav": 10, "b/two.flac": 20})
    tars = set()
    for kind in ("jsonl", "csv", "tsv"):
        manifest = write_manifest(tmp_path / f"m.{kind}", ROWS)
        (shard,) = run(manifest, tmp_path / f"out-{kind}")
        tars.add(Path(shard.url).read_bytes())

    assert len(tars) == 1
    assert json.loads(samples_in([shard])["b/two"]["json"])["text"] == '"Two", she said.'


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/one.wav": 10, "b/two.flac": 20})
    there = write_manifest(tmp_path / "there.csv", ROWS)
    back = write_manifest(tmp_path / "back.csv", ROWS[::-1])
    run(there, tmp_path / "out-there")
    run(back, tmp_path / "out-back")

    assert contents(tmp_path / "out-there") == contents(tmp_path / "out-back")


def test_paths_of_a_manifest_may_be_absolute_or_above_it_below_the_root(tmp_path: Path) -> None:
    write_files(tmp_path, {"audio/a.wav": 1, "other/b.wav": 2, "lists/x.txt": 0})
    paths = ["../audio/a.wav", str(tmp_path / "other/b.wav"), f"file://{tmp_path}/other/b.wav"]
    for number, path in enumerate(paths):
        row = {"path": path, "key": "k"}
        manifest = write_manifest(tmp_path / f"lists/{number}.jsonl", [row])
        with pytest.raises(InputError, match=r"line 1: .* is not below .*root=<its folder>"):
            run(manifest, tmp_path / "out")
        packed = samples_in(run(manifest, tmp_path / f"out{number}", root=str(tmp_path)))
        assert set(packed["k"]) == {"wav", "json"}


def test_urls_of_a_manifest_may_lie_below_the_root(tmp_path: Path) -> None:
    Storage().put("memory://corpus/c.ogg", b"c")
    manifest = write_manifest(tmp_path / "m.jsonl", [{"path": "memory://corpus/c.ogg", "key": "k"}])
    packed = samples_in(run(manifest, tmp_path / "out", root="memory://corpus"))
    assert packed["k"]["ogg"] == b"c"
    with pytest.raises(InputError, match=r"m\.jsonl, line 1: 'memory://corpus/c\.ogg' is of"):
        run(manifest, tmp_path / "again", follow_links=True)


def test_links_below_the_source_or_its_root_are_followed_and_others_named(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a/one.flac": 1, "b/two.flac": 2})
    write_files(tmp_path, {"more/three.flac": 3})
    links = {"a/b": "../b", "b/a": "../a", "round": ".", "gone.flac": "no", "more": "../more"}
    links |= {"loop": "loop", "long.flac": "x" * 300}
    for name, target in links.items():
        (source / name).symlink_to(target)
    plan = plan_pack(PackSettings(str(source), "unused"), Storage())
    found = {one.url.removeprefix(f"{source}/"): one.reason for one in plan.passed_over}
    keys = [sample.key for shard in plan.shards for sample in shard.samples]
    assert keys == ["a/b/two", "a/one", "b/a/one", "b/two"]
    assert found.keys() == {"round", "gone.flac", "loop", "long.flac", "more", "a/b/a", "b/a/b"}
    for allowed in ({"root": str(tmp_path / "more")}, {"follow_links": True}):
        plan = plan_pack(PackSettings(str(source), "unused", **allowed), Storage())
        assert "more/three" in [sample.key for shard in plan.shards for sample in shard.samples]


def test_every_file_is_packed_or_passed_over_with_a_reason(
    tmp_path: Path, storage: Storage
) -> None:
    names = ["a.flac", "a.txt", "a.normalized.txt", "b.doc", "c.json", ".x/d.wav", "noext"]
    write_files(tmp_path / "in", dict.fromkeys(names, 1))
    for name in names:
        storage.put(f"memory://passed-over/{name}", b"x")
    reasons = {
        "a.normalized.txt": "the .txt of the same audio is taken",
        "c.json": "beside no audio file of its name",
        "b.doc": "not audio by its name, .doc",
        "noext": "not audio by its name, no extension",
    }
    for source in (f"{tmp_path}/in", "memory://passed-over"):
        plan = plan_pack(PackSettings(source, "unused"), storage)
        found = {one.url.rpartition("/")[2]: one.reason for one in plan.passed_over}
        hidden = {name: reason for name, reason in found.items() if reason == "hidden"}
        assert {name: found[name] for name in found.keys() - hidden.keys()} == reasons
        assert len(hidden) == 1
        assert [len(sample.members) for sample in plan.shards[0].samples] == [2]


@pytest.mark.parametrize("suffix", AUDIO_SUFFIXES)
def test_every_name_of_audio_is_packed_and_is_the_audio_of_its_sample(
    tmp_path: Path, suffix: str
) -> None:
    write_files(tmp_path / "in", {f"a.{suffix.upper()} ": 1})
    [shard] = run(tmp_path / "in", tmp_path / "out")
    [sample] = read_samples(list_shards([shard.url], Storage())[0], Storage(), 2**30)
    assert isinstance(sample, Sample)
    assert (sample.key, audio_suffix(sample, None)) == ("a", suffix)


def test_a_video_beside_its_audio_is_named_and_the_audio_packed(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.mkv": 1, "a.wav": 2, "b.mov": 3})
    plan = plan_pack(PackSettings(str(source), "unused"), Storage())
    [names] = [[s.members[0].name for s in shard.samples] for shard in plan.shards]
    assert names == ["a.wav", "b.mov"]
    assert [(one.url, one.reason) for one in plan.passed_over] == [(f"{source}/a.mkv", LESS_USUAL)]


def texts_and_passed_over(source: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    settings = PackSettings(str(source), "unused")
    plan = plan_pack(settings, Storage())
    texts = {
        sample.key: read_member(member, Storage())
        for shard in plan.shards
        for sample in shard.samples
        for member in sample.members
        if member.name.endswith(".txt")
    }
    return texts, {one.url.removeprefix(f"{source}/"): one.reason for one in plan.passed_over}


def test_the_best_text_of_libritts_is_packed_and_the_others_named(tmp_path: Path) -> None:
    names = ["1_2.wav", "1_2.original.txt", "1_2.Normalized.TXT", "3.wav", "3.original.txt"]
    write_files(tmp_path, dict.fromkeys([*names, "4.normalized.txt", "4.original.wav"], 1))
    texts, left = texts_and_passed_over(tmp_path)
    assert texts == {"1_2": b"\2", "3": b"\4"}
    assert left == {
        "1_2.original.txt": "the .normalized.txt of the same audio is taken",
        "4.normalized.txt": "beside no audio file of its name",
    }


def test_a_transcript_of_librispeech_gives_each_utterance_its_line(tmp_path: Path) -> None:
    for folder in ("84/1", "84/2"):
        write_files(tmp_path / folder, {"u-0.flac": 1, "u-1.flac": 1, "u-2.flac": 1, "u-2.txt": 1})
    lines = "\ufeffu-0 MISTER QUILTER\r\nu-1\n\nu-2 LESS\nu-9 NOBODY\nu-0 AGAIN\n"
    (tmp_path / "84/1/u.trans.txt").write_text(lines, newline="")
    (tmp_path / "84/2/no.trans.txt").write_text("u-7 ELSEWHERE")
    texts, left = texts_and_passed_over(tmp_path)
    assert texts == {"84/1/u-0": b"MISTER QUILTER", "84/1/u-2": b"\3", "84/2/u-2": b"\3"}
    assert left == {
        "84/1/u.trans.txt, line 2": WITHOUT_TEXT,
        "84/1/u.trans.txt, line 4": "the .txt of the same audio is taken",
        "84/1/u.trans.txt, line 5": ALONE_LINE,
        "84/1/u.trans.txt, line 6": "the .trans.txt of the same audio is taken",
        "84/2/no.trans.txt": NO_LINE,
    }


def test_pack_counts_by_reason_what_it_left_out(tmp_path: Path) -> None:
    names = {"a.wav": 1, "b.doc": 1, "c.doc": 1, "d.txt": 1}
    write_files(tmp_path / "in", names | {f"x.{number}": 1 for number in range(30)})
    printed = io.StringIO()
    config = from_overrides(PackConfig, [f"source={tmp_path}/in", f"output={tmp_path}/out"])
    pack_audio(config, Display(Console(file=printed, width=10_000)))
    lines = printed.getvalue().splitlines()
    assert f"passed over 2, not audio by its name, .doc: {tmp_path}/in/b.doc" in lines[0]
    assert "passed over 33: 2 not audio by its name, .doc; 1 " in lines[-1]
    assert len(lines) == 23
    assert lines[-1].endswith("; 12 more reasons")


def test_many_links_to_each_other_are_followed_in_bounded_time(tmp_path: Path) -> None:
    names = [f"d{number}" for number in range(12)]
    source = write_files(tmp_path / "in", {f"{name}/x.wav": 1 for name in names})
    for name in names:
        for other in names:
            (source / name / f"to-{other}").symlink_to(f"../{other}")
    plan = plan_pack(PackSettings(str(source), "unused"), Storage())
    assert len(plan.shards[0].samples) <= 12 + 12 * 11


def test_a_file_that_becomes_a_link_while_packing_is_refused(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1})
    write_files(tmp_path, {"private.wav": 1})
    plan = plan_pack(PackSettings(str(source), str(tmp_path / "out")), Storage())
    (source / "a.wav").unlink()
    (source / "a.wav").symlink_to("../private.wav")
    with pytest.raises(InputError, match="has become a link"):
        list(pack_shards(plan.shards, str(tmp_path / "out"), Storage()))


def test_a_lone_surrogate_in_a_manifest_becomes_a_replacement_character(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1})
    (source / "m.jsonl").write_text('{"path": "a.wav", "text": "\\ud83d"}')
    packed = samples_in(run(source / "m.jsonl", tmp_path / "out"))
    assert json.loads(packed["a"]["json"]) == {"text": "\ufffd"}


def test_a_byte_order_mark_and_a_line_separator_in_a_sentence_do_no_harm(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.wav": 1})
    row = json.dumps({"path": "a.wav", "text": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "m.jsonl").write_text(row, encoding="utf-8-sig")

    packed = samples_in(run(tmp_path / "m.jsonl", tmp_path / "out"))

    assert json.loads(packed["a"]["json"]) == {"text": "one\u2028two"}


def test_a_row_with_only_a_path_gets_no_json(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.wav": 1})
    manifest = write_manifest(tmp_path / "m.csv", [{"path": "a.wav", "text": ""}])

    assert samples_in(run(manifest, tmp_path / "out")) == {"a": {"wav": b"\0"}}


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
    local = run(tmp_path / "manifest.jsonl", tmp_path / "out", shard_mb=0.01)
    assert len(remote) == 3
    assert [storage.read_bytes(s.url) for s in remote] == [storage.read_bytes(s.url) for s in local]
    assert all(shard.skipped for shard in pack_files(settings, storage))


def test_two_files_of_one_key_are_both_named(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"utt.001.flac": 1, "utt_001.wav": 1})
    with pytest.raises(InputError, match=r"utt\.001\.flac and .*utt_001\.wav .*key 'utt_001'"):
        run(source, tmp_path / "out")


def test_an_output_of_another_plan_is_refused_untouched(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1, "b.wav": 1})
    run(source, tmp_path / "out")
    before = contents(tmp_path / "out")
    (source / "a.wav").write_bytes(b"another")

    with pytest.raises(InputError, match=r"pack\.json is the plan of another pack"):
        run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_a_foreign_tar_at_the_output_is_not_overwritten(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1})
    write_files(tmp_path / "out", {"shard-000000.tar": 9})
    with pytest.raises(InputError, match=r"holds shard-000000\.tar but no pack\.json"):
        run(source, tmp_path / "out")


def test_a_file_that_changes_while_packing_is_noticed(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1, "b.wav": 1})
    shards = pack_files(PackSettings(str(source), str(tmp_path / "out"), shard_mb=0.001), Storage())
    next(shards)
    (source / "b.wav").write_bytes(b"longer")
    with pytest.raises(InputError, match=r"b\.wav had 1 bytes .* and has 6 now"):
        next(shards)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("m.csv", "file,text\na.wav,x\n", r"m\.csv, line 2 has no `path`, only file, text"),
        ("m.csv", "path,text\na.wav,x,y\n", r"line 2 has more cells than the header"),
        ("m.csv", 'path,text\na.wav,"x\n', r"after line 1: unexpected end of data"),
        ("m.csv", "path\n", r"has no rows"),
        ("m.csv", "path\na.wav\nmissing.wav\n", r"line 3: .*missing\.wav does not exist; a rel"),
        ("m.csv", "path\na.wav\n./a.wav\n", r"line 2 and .*line 3 both name .*a\.wav"),
        ("m.csv", "path\nnoext\n", r"line 2: 'noext' has no audio extension"),
        ("m.csv", "path\nm.json\n", r"line 2: 'm\.json' has no audio extension"),
        ("m.csv", "path,key\na.wav,x/\n", r"line 2: the key 'x/'"),
        ("m.csv", "path,key\na.wav,x\1\n", r"line 2: the key 'x\\x01' cannot be a name"),
        ("m.csv", "path\na.pem\n", r"line 2: 'a\.pem' is not named as audio"),
        ("m.tsv", "path,text\na.wav,x\n", r"line 2 has no `path`, only path,text"),
        ("m.jsonl", '{"path": "a.wav"}\n{"path": 3}\n', r"line 2 has no `path`"),
        ("m.jsonl", '{"path": "a.wav"\n', r"line 1 is not JSON"),
        ("m.jsonl", '\n["a.wav"]\n', r"line 2 is not a JSON object"),
        ("m.xlsx", "PK", r"m\.xlsx is not a folder; a manifest ends in \.jsonl, \.json"),
    ],
)
def test_a_bad_manifest_is_refused_by_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    write_files(tmp_path, {"a.wav": 1})
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        run(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path,text\na.wav,Zoë\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        run(tmp_path / "m.csv", tmp_path / "out")


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no audio \(\.wav, .* in .*/none"):
        run(tmp_path / "none", tmp_path / "out")


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
