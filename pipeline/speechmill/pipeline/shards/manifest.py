"""Tables of audio files: JSONL, CSV or TSV with a `path` column, one row per file."""

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from typing import Any

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.members import (
    SIDECARS,
    Clip,
    Member,
    clean_url,
    make_clip,
    split_suffix,
)
from speechmill.pipeline.storage import FileInfo, Storage, join

MANIFESTS = (".jsonl", ".csv", ".tsv")

Row = tuple[int, dict[str, Any]]  # line of the manifest, from 1, and its columns


def clips_of_manifest(url: str, storage: Storage) -> list[Clip]:
    """A clip for each row, its other columns as JSON beside the audio.

    Raises `InputError`, with the line, for a row that names no file, or one that is not there or
    was named before.
    """
    root = posixpath.dirname(url)
    rows = [(f"{url}, line {line}", row) for line, row in _rows(url, storage)]
    if not rows:
        raise InputError(f"{url} has no rows; give one per audio file")
    urls = [_located(row, root, where, storage) for where, row in rows]
    files = _look_up(set(urls), root, storage)
    seen: dict[str, str] = {}
    for (where, _), file in zip(rows, urls, strict=True):
        if file not in files:
            raise InputError(f"{where}: {file} does not exist; a relative path starts at {root}")
        if file in seen:
            raise InputError(f"{seen[file]} and {where} both name {file}; drop one")
        seen[file] = where
    return [
        _clip_of_row(row, files[file], root, where)
        for (where, row), file in zip(rows, urls, strict=True)
    ]


def _rows(url: str, storage: Storage) -> Iterator[Row]:
    try:
        text = storage.read_bytes(url).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{url} is not UTF-8 ({error}); save it as UTF-8") from error
    yield from _json_rows(text, url) if split_suffix(url)[1] == "jsonl" else _table_rows(text, url)


def _json_rows(text: str, url: str) -> Iterator[Row]:
    # Not splitlines(): inside a JSON string it would cut at U+2028.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except ValueError as error:
            raise InputError(f"{url}, line {line} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(f'{url}, line {line} is no JSON object; write {{"path": …}}')
        yield line, row


def _table_rows(text: str, url: str) -> Iterator[Row]:
    """Rows without their empty cells."""
    file = io.StringIO(text, newline="")
    if split_suffix(url)[1] == "tsv":
        # Tables of tabs do not quote: a sentence may begin with a quotation mark.
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.DictReader(file, strict=True)
    try:
        for row in reader:
            if None in row:
                raise InputError(f"{url}, line {reader.line_num} has more cells than the header")
            yield reader.line_num, {name: cell for name, cell in row.items() if cell}
    except csv.Error as error:
        raise InputError(f"{url}, after line {reader.line_num}: {error}") from error


def _located(row: dict[str, Any], root: str, where: str, storage: Storage) -> str:
    """The URL of a row's audio file."""
    path = row.get("path")
    if not path or not isinstance(path, str):
        columns = ", ".join(row) or "nothing"
        raise InputError(f"{where} has no `path`, only {columns}; name the audio file in `path`")
    if split_suffix(path)[1] in ("", *SIDECARS):
        raise InputError(f"{where}: {path!r} has no audio extension; name it like {path}.flac")
    if "://" in path:
        return clean_url(storage.absolute(path))
    return clean_url(path if path.startswith("/") else join(root, path))


def _look_up(urls: set[str], root: str, storage: Storage) -> dict[str, FileInfo]:
    """The files that exist, from one listing per folder and never a request per file."""
    folders = {root if url.startswith(root + "/") else posixpath.dirname(url) for url in urls}
    listed: list[str] = []
    for folder in sorted(folders):
        if not any(folder.startswith(outer + "/") for outer in listed):
            listed.append(folder)
    found = (info for folder in listed for info in storage.list_files(folder))
    return {info.url: info for info in found if info.url in urls}


def _clip_of_row(row: dict[str, Any], file: FileInfo, root: str, where: str) -> Clip:
    stem, suffix = split_suffix(file.url)
    key = str(row.get("key", _inner(stem, root))).replace(".", "_")
    if not key or key != key.strip("/"):
        raise InputError(f"{where}: the key {key!r} is empty or has a slash at its end; change it")
    columns = {name: value for name, value in row.items() if name != "path"}
    members = [Member(f"{key}.{suffix}", file)]
    if columns:
        text = json.dumps(columns, ensure_ascii=False, sort_keys=True)
        members.append(Member(f"{key}.json", text.encode()))
    return make_clip(key, members, f"{where} ({file.url})")


def _inner(url: str, root: str) -> str:
    """A path below the root; the whole path, without protocol, of what lies elsewhere."""
    return url.removeprefix(root + "/").rpartition("://")[2].lstrip("/")
