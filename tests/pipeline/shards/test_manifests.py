"""Manifests of other tools: their columns, folders, and rows that are segments."""

import json
from pathlib import Path

import pytest

from speechmill.pipeline.audio.segment import SegmentSettings, Span, read_spans
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.packing import PackSettings, plan_shards
from speechmill.pipeline.shards.sources import SampleFiles
from speechmill.pipeline.storage import Storage

SEGMENTS = [
    {"audio_filepath": "long.wav", "offset": 1.5, "duration": 2.0, "text": "two", "speaker": "A"},
    {"audio_filepath": "long.wav", "offset": 0.1, "duration": 0.2, "text": "one", "speaker": "A"},
]


def packed(at: Path, name: str, text: str, **settings: object) -> list[SampleFiles]:
    for audio in ("long.wav", "data/a.flac", "clips/cv_1.mp3", "wavs/LJ001-0001.wav"):
        (at / audio).parent.mkdir(parents=True, exist_ok=True)
        (at / audio).write_bytes(b"audio")
    (at / name).write_text(text, encoding="utf-8")
    source = PackSettings(f"{at}/{name}", f"{at}/out", **settings)
    return [sample for shard in plan_shards(source, Storage()) for sample in shard.samples]


def as_lines(rows: list[dict[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def metadata(sample: SampleFiles) -> dict[str, object]:
    [content] = [m.content for m in sample.members if m.name.endswith(".json")]
    return json.loads(content)


@pytest.mark.parametrize(
    ("kind", "name", "text", "key", "expected"),
    [
        (
            "common_voice",
            "validated.tsv",
            'client_id\tpath\tsentence\nabc\tcv_1\tHe said "hi\n',
            "clips/cv_1",
            {"client_id": "abc", "text": 'He said "hi'},
        ),
        (
            "ljspeech",
            "metadata.csv",
            'LJ001-0001|In 1850, "so|In eighteen fifty, "so\n',
            "wavs/LJ001-0001",
            {"raw_text": 'In 1850, "so', "text": 'In eighteen fifty, "so'},
        ),
        (
            "hf",
            "metadata.csv",
            "file_name,transcription\ndata/a.flac,hello\n",
            "data/a",
            {"text": "hello"},
        ),
        (
            "nemo",
            "manifest.json",
            as_lines([{"audio_filepath": "data/a.flac", "duration": 1.0, "text": "x"}]),
            "data/a",
            {"duration": 1.0, "text": "x"},
        ),
    ],
)
def test_manifests_of_other_tools_are_read_by_the_name_of_their_format(
    tmp_path: Path, kind: str, name: str, text: str, key: str, expected: dict[str, object]
) -> None:
    [sample] = packed(tmp_path, name, text, format=kind)
    assert (sample.key, metadata(sample)) == (key, expected)


@pytest.mark.parametrize("order", [1, -1])
def test_rows_of_one_recording_are_its_segments_in_order(tmp_path: Path, order: int) -> None:
    [sample] = packed(tmp_path, "m.json", as_lines(SEGMENTS[::order]), format="nemo")
    found = metadata(sample)
    assert (sample.key, found["speaker"]) == ("long", "A")
    spans = read_spans(found, SegmentSettings(by="metadata"))
    assert spans == [Span(0.1, 0.3, "one"), Span(1.5, 3.5, "two")]


def test_rows_with_start_and_end_are_segments_by_any_names(tmp_path: Path) -> None:
    text = "file\tfrom\tto\tsaid\n"
    text += "long.wav\t0\t1.5\tone\nlong.wav\t2\t3\ttwo\n"
    columns = {"path": "file", "start": "from", "end": "to", "text": "said"}
    [sample] = packed(tmp_path, "m.tsv", text, columns=columns)
    assert metadata(sample) == {"start": [0, 2], "end": [1.5, 3], "text": ["one", "two"]}


def test_a_single_segment_has_its_text_also_if_the_recording_is_taken_whole(tmp_path: Path) -> None:
    [sample] = packed(tmp_path, "m.jsonl", as_lines(SEGMENTS[:1]), format="nemo")
    found = metadata(sample)
    assert found["text"] == "two"
    assert read_spans(found, SegmentSettings(by="metadata")) == [Span(1.5, 3.5, "two")]


def test_paths_may_start_at_another_folder(tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    [sample] = packed(
        tmp_path, "lists/m.csv", "path\na.flac\n", folder="../data", root=str(tmp_path)
    )
    assert sample.members[0].name.endswith("a.flac")


def test_a_cell_of_any_size_is_read(tmp_path: Path) -> None:
    [sample] = packed(tmp_path, "m.tsv", f"path\talign\nlong.wav\t{'x' * 200_000}\n")
    assert len(metadata(sample)["align"]) == 200_000


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"audio_filepath": "long.wav"}, {}, "has no `path`.*set format=nemo, or set columns.path"),
        ({"wav": "long.wav"}, {}, "only wav; name the audio file in `path`, or set columns.path"),
        ({"path": "long.wav", "said": "x"}, {"columns": {"text": "sad"}}, "has a column 'sad'; th"),
        ({"path": "long.wav"}, {"columns": {"txt": "a"}}, "columns is 'txt'; use one of path, key"),
        ({"path": "long.wav"}, {"format": "kaldi"}, "format is 'kaldi'; use one of plain, nemo"),
        ({"audio_filepath": "long.wav", "offset": 1}, {"format": "nemo"}, "line 1 has neither"),
        (SEGMENTS[0] | {"offset": "soon"}, {"format": "nemo"}, "line 1: offset is 'soon'; give"),
        (SEGMENTS[0] | {"duration": -1}, {"format": "nemo"}, "line 1: duration is -1; give"),
        (
            {"file_name": "long.wav", "text": "a", "transcription": "b"},
            {"format": "hf"},
            "has both 'transcription' and 'text'; say which: columns.text=text",
        ),
    ],
)
def test_a_row_that_does_not_fit_is_named_with_the_cure(
    tmp_path: Path, row: dict[str, object], settings: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        packed(tmp_path, "m.jsonl", as_lines([row]), **settings)


def test_a_format_is_refused_for_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tell how a manifest is written"):
        plan_shards(PackSettings(str(tmp_path), "out", format="nemo"), Storage())
