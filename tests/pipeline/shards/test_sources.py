"""Manifests of audio files: which files become which sample."""

import csv
import json
from pathlib import Path

import pytest

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.storage import Storage
from tests.packed import contents, pack, samples_in, write_files

ROWS = [
    {"path": "b/two.flac", "text": '"Two", she said.', "speaker": "Zoë"},
    {"path": "a/one.wav", "text": "one, and a comma", "speaker": "Ann"},
]


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


def test_jsonl_csv_and_tsv_give_the_same_tars(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/one.wav": 10, "b/two.flac": 20})
    tars = set()
    for kind in ("jsonl", "csv", "tsv"):
        manifest = write_manifest(tmp_path / f"m.{kind}", ROWS)
        (shard,) = pack(manifest, tmp_path / f"out-{kind}")
        tars.add(Path(shard.url).read_bytes())

    assert len(tars) == 1
    assert json.loads(samples_in([shard])["b/two"]["json"])["text"] == '"Two", she said.'


def test_the_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    write_files(tmp_path, {"a/one.wav": 10, "b/two.flac": 20})
    there = write_manifest(tmp_path / "there.csv", ROWS)
    back = write_manifest(tmp_path / "back.csv", ROWS[::-1])
    pack(there, tmp_path / "out-there")
    pack(back, tmp_path / "out-back")

    assert contents(tmp_path / "out-there") == contents(tmp_path / "out-back")


def test_paths_of_a_manifest_may_be_absolute_or_above_it_below_the_root(tmp_path: Path) -> None:
    write_files(tmp_path, {"audio/a.wav": 1, "other/b.wav": 2, "lists/x.txt": 0})
    paths = ["../audio/a.wav", str(tmp_path / "other/b.wav"), f"file://{tmp_path}/other/b.wav"]
    for number, path in enumerate(paths):
        row = {"path": path, "key": "k"}
        manifest = write_manifest(tmp_path / f"lists/{number}.jsonl", [row])
        with pytest.raises(InputError, match=r"line 1: .* is not below .*root=<its folder>"):
            pack(manifest, tmp_path / "out")
        packed = samples_in(pack(manifest, tmp_path / f"out{number}", root=str(tmp_path)))
        assert set(packed["k"]) == {"wav", "json"}


def test_urls_of_a_manifest_may_lie_below_the_root(tmp_path: Path) -> None:
    Storage().put("memory://corpus/c.ogg", b"c")
    manifest = write_manifest(tmp_path / "m.jsonl", [{"path": "memory://corpus/c.ogg", "key": "k"}])
    packed = samples_in(pack(manifest, tmp_path / "out", root="memory://corpus"))
    assert packed["k"]["ogg"] == b"c"
    with pytest.raises(InputError, match=r"m\.jsonl, line 1: 'memory://corpus/c\.ogg' is of"):
        pack(manifest, tmp_path / "again", follow_links=True)


def test_a_lone_surrogate_in_a_manifest_becomes_a_replacement_character(tmp_path: Path) -> None:
    source = write_files(tmp_path / "in", {"a.wav": 1})
    (source / "m.jsonl").write_text('{"path": "a.wav", "text": "\\ud83d"}')
    packed = samples_in(pack(source / "m.jsonl", tmp_path / "out"))
    assert json.loads(packed["a"]["json"]) == {"text": "\ufffd"}


def test_a_byte_order_mark_and_a_line_separator_in_a_sentence_do_no_harm(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.wav": 1})
    row = json.dumps({"path": "a.wav", "text": "one\u2028two"}, ensure_ascii=False)
    (tmp_path / "m.jsonl").write_text(row, encoding="utf-8-sig")

    packed = samples_in(pack(tmp_path / "m.jsonl", tmp_path / "out"))

    assert json.loads(packed["a"]["json"]) == {"text": "one\u2028two"}


def test_a_row_with_only_a_path_gets_no_json(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.wav": 1})
    manifest = write_manifest(tmp_path / "m.csv", [{"path": "a.wav", "text": ""}])

    assert samples_in(pack(manifest, tmp_path / "out")) == {"a": {"wav": b"\0"}}


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
        pack(tmp_path / name, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes("path,text\na.wav,Zoë\n".encode("latin-1"))
    with pytest.raises(InputError, match="is not UTF-8"):
        pack(tmp_path / "m.csv", tmp_path / "out")
