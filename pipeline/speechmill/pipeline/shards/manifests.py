"""Rows of a manifest: JSONL, CSV or TSV, whatever its columns are called."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from speechmill.pipeline.errors import InputError, check_choice
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.text import clean_json

MANIFESTS = (".jsonl", ".json", ".csv", ".tsv")
# What columns mean, and how they are called in a manifest of our own.
COLUMNS = {
    "path": "path",
    "key": "key",
    "text": "text",
    "start": "offset",
    "duration": "duration",
    "end": "end",
}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """How a manifest is written."""

    columns: Mapping[str, str] = field(default_factory=dict)  # name by meaning, see `COLUMNS`
    folder: str = ""  # where relative paths start, from the folder of the manifest
    suffix: str = ""  # of audio files that are named without one
    header: tuple[str, ...] | None = None  # names of the columns; None: the first line has them
    delimiter: str | None = None  # of cells without quotes; None: by the manifest's own suffix
    required: tuple[str, ...] = ()  # columns of which some row must have a value

    def name(self, meaning: str) -> str:
        return self.columns.get(meaning, COLUMNS[meaning])

    def has_segments(self, rows: Sequence[Row]) -> bool:
        """Whether the rows of one recording are segments of it.

        A single row is one only if the layout says which column has the start.
        """
        return (len(rows) > 1 or "start" in self.columns) and all(
            row.get(self.name("start")) is not None for row in rows
        )


FORMATS = {
    "plain": Layout(),
    "nemo": Layout({"path": "audio_filepath", "start": "offset"}),
    "hf": Layout({"path": "file_name", "text": "transcription"}),
    "common_voice": Layout({"text": "sentence"}, folder="clips", suffix=".mp3"),
    "ljspeech": Layout(
        {"path": "id"},
        folder="wavs",
        suffix=".wav",
        header=("id", "raw_text", "text"),
        delimiter="|",
    ),
}


def layout_of(kind: str, columns: Mapping[str, str], folder: str | None) -> Layout:
    """A layout by its name, with other names for columns and another folder.

    Raises `InputError` for an unknown name of a layout or of a meaning.
    """
    check_choice("format", kind, FORMATS)
    for meaning in columns:
        check_choice("a name in columns", meaning, COLUMNS)
    known = FORMATS[kind]
    folder = known.folder if folder is None else folder
    names = {**known.columns, **columns}
    return replace(known, columns=names, folder=folder, required=tuple(columns.values()))


def read_rows(url: str, layout: Layout, storage: Storage) -> list[tuple[str, Row]]:
    """Every row, without empty cells, with its file and line.

    Raises `InputError`, with the line, for what is not a row.
    """
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url} is not UTF-8 ({error}); save it as UTF-8") from error
    is_json = url.lower().endswith((".jsonl", ".json"))
    rows = _json_rows(text, url) if is_json else _table_rows(text, url, layout)
    found = [(f"{url}, line {line}", row) for line, row in rows]
    if not found:
        header = "" if is_json or layout.header else " below its header"
        raise InputError(
            f"{url} has no rows{header}; give one per audio file (LJSpeech's has no header: "
            "format=ljspeech)"
        )
    for name in layout.required:
        if not any(name in row for _, row in found):
            known = ", ".join(dict.fromkeys(column for _, row in found for column in row))
            raise InputError(f"no row of {url} has a column {name!r}; they have {known}")
    return found


def _json_rows(text: str, url: str) -> Iterator[tuple[int, Row]]:
    # Not splitlines(): it would cut at a U+2028 inside a JSON string.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(clean_json(content)[0])
        except (ValueError, RecursionError) as error:
            raise InputError(f"{url}, line {line} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f'{url}, line {line} is not a JSON object; write {{"path": …}}')
        yield line, row


def _table_rows(text: str, url: str, layout: Layout) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may be an alignment
    file = io.StringIO(text, newline="")
    delimiter = layout.delimiter or ("\t" if url.lower().endswith(".tsv") else None)
    if delimiter:
        # No quoting: a sentence may begin with a quotation mark.
        reader = csv.DictReader(
            file, layout.header, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True
        )
    else:
        reader = csv.DictReader(file, layout.header, strict=True)
    try:
        for row in reader:
            if None in row:
                raise InputError(f"{url}, line {reader.line_num} has more cells than the header")
            yield reader.line_num, {name: cell for name, cell in row.items() if cell}
    except csv.Error as error:
        raise InputError(f"{url}, after line {reader.line_num}: {error}") from error


def path_in(row: Row, layout: Layout, where: str) -> str:
    """The path of a row's audio file, as it is written; raises `InputError` without one."""
    name = layout.name("path")
    path = row.get(name)
    if path and isinstance(path, str):
        return path
    columns = ", ".join(row) or "nothing"
    fits = [kind for kind, one in FORMATS.items() if not one.header and one.name("path") in row]
    cure = f"set format={fits[0]}" if fits else f"name the audio file in `{name}`"
    raise InputError(
        f"{where} has no `{name}`, only {columns}; {cure}, or set columns.path=<its column>"
    )


def metadata_of(rows: Sequence[tuple[str, Row]], layout: Layout) -> Row:
    """The JSON of a recording: the columns of its row, or those of its segments as lists.

    The lists `start`, `end` (s) and `text` are those that `segment.by=metadata` reads. Columns with
    one value in all rows stay single values.
    """
    named = [(where, _with_text(row, layout, where)) for where, row in rows]
    plain = [row for _, row in named]
    if not layout.has_segments(plain):
        return plain[0]
    spans = [_span(row, layout, where) for where, row in named]
    order = sorted(range(len(rows)), key=lambda place: spans[place])
    times = {layout.name(meaning) for meaning in ("start", "duration", "end")}
    names = dict.fromkeys(name for row in plain for name in row if name not in times)
    lists = ("text",) if len(rows) > 1 else ()
    columns = {name: [plain[place].get(name) for place in order] for name in names}
    return {
        **{
            name: values if name in lists or any(v != values[0] for v in values) else values[0]
            for name, values in columns.items()
        },
        "start": [spans[place][0] for place in order],
        "end": [spans[place][1] for place in order],
    }


def _with_text(row: Row, layout: Layout, where: str) -> Row:
    """The row without its path, and with its text in `text`."""
    name = layout.name("text")
    if name in row and name != "text" and "text" in row:
        raise InputError(f"{where} has both {name!r} and 'text'; say which: columns.text=text")
    return {
        "text" if column == name else column: value
        for column, value in row.items()
        if column != layout.name("path")
    }


def _span(row: Row, layout: Layout, where: str) -> tuple[float, float]:
    start = _seconds(row, layout.name("start"), where)
    if row.get(layout.name("duration")) is not None:
        return start, round(start + _seconds(row, layout.name("duration"), where), 6)
    if row.get(layout.name("end")) is None:
        names = f"`{layout.name('duration')}` nor `{layout.name('end')}`"
        raise InputError(f"{where} has neither {names}; a segment needs one, in seconds")
    return start, _seconds(row, layout.name("end"), where)


def _seconds(row: Row, name: str, where: str) -> float:
    try:
        value = float(row[name])
    except (TypeError, ValueError, OverflowError):
        value = math.nan
    if not 0 <= value < math.inf:
        raise InputError(f"{where}: {name} is {row[name]!r}; give seconds, 0 or more")
    return value
