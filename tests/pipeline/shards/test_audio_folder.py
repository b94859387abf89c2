"""Folders of audio files: which files become which sample, and which are left out."""

import io
from pathlib import Path

import pytest
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
    PackSettings,
    plan_pack,
    read_member,
)
from speechmill.pipeline.shards.tar_reader import Sample, read_samples
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.describe import audio_suffix
from tests.packed import pack, samples_in, write_files


def test_dots_in_names_become_underscores(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"v1.0/utt.001.flac": 5, "v1.0/utt.001.txt": 2})

    packed = samples_in(pack(source, tmp_path / "out"))

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

    packed = samples_in(pack(source, tmp_path / "out"))

    assert {key: set(members) for key, members in packed.items()} == {
        "a": {"wav", "json"},
        "b": {"wav"},
    }


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
    [shard] = pack(tmp_path / "in", tmp_path / "out")
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


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no audio \(\.wav, .* in .*/none"):
        pack(tmp_path / "none", tmp_path / "out")
