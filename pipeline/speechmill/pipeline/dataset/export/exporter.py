"""Exports a token dataset, part by part, into a folder that holds nothing else.

    export.json         what was exported and how; written first
    data/               the files of the format
    done/<part>.json    what was written for a part; written after its files
    README.md, …        files about all parts, for some formats; written last

A part is written if it has no record in `done/`, or if it changed since, as after
`speechmill drop`. So the export is a function of the dataset and the settings, however often it was
stopped. No file holds a time.
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow.compute as pc

from speechmill.pipeline.dataset.export.formats import FORMATS
from speechmill.pipeline.dataset.export.ids import Ids
from speechmill.pipeline.dataset.export.part import Part, Record, Rows, Whole
from speechmill.pipeline.dataset.export.source import Reader, SourcePart, source_parts
from speechmill.pipeline.dataset.layout import BATCH, DAMAGE, TokenDataset, readable
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import DatasetConflict, InputError, StorageNotFound, check_choice
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.tokenize import canary
from speechmill.pipeline.tokenize.writer import library_versions

VERSION = 2  # of the layout of an export
DESCRIPTION = "export.json"
_LIBRARIES = "libraries"  # of the description: those of the run that began the export
_PARALLEL_READS = 32


@dataclass(frozen=True, slots=True)
class Export:
    """How a dataset is exported: the format, what its ids are, and which rows and codebooks."""

    format: str
    ids: Ids
    codebooks: int  # of the dataset, the first ones
    where: Where | None = None

    def __post_init__(self) -> None:
        check_choice("format", self.format, FORMATS)
        wanted, ids = FORMATS[self.format], self.ids
        if wanted.one_sequence and ids.streams is not None:
            raise InputError(
                f"the format {self.format} holds one sequence of ids for each utterance, and the "
                f"pattern gives {len(ids.streams)} streams; set --flat, or another pattern"
            )
        if wanted.by_frame and not ids.by_frame:
            raise InputError(
                f"the format {self.format} holds codes frame by frame; take --pattern parallel or "
                "semantic, and apply other patterns in the model"
            )


def export_dataset(dataset: TokenDataset, output: str, export: Export) -> Iterator[Record]:
    """Write the missing and the changed parts; yield the record of each one.

    `output` is absolute. Raises `InputError` if the folder holds other files, and `DatasetConflict`
    if it holds another export.
    """
    folder = _Folder(output, dataset.storage)
    sources = {part.stem: part for part in source_parts(dataset)}
    description = folder.claim(_description(dataset, export))
    records = folder.records()
    for stem in records.keys() - sources.keys():
        folder.remove(records.pop(stem))
    reader = Reader(dataset, export.ids, export.codebooks, export.where)
    for stem, source in sources.items():
        old = records.get(stem)
        if old and old.source == source.digest:
            continue
        if old:
            folder.remove(old)
        records[stem] = folder.write(source, reader.rows(source), export)
        yield records[stem]
    if sources:
        codec = next(iter(sources.values())).codec
        streams = None if export.ids.streams is None else len(export.ids.streams)
        written = [records[stem] for stem in sources]
        folder.describe(Whole(folder.data, description, codec, streams, written), export)


def _description(dataset: TokenDataset, export: Export) -> dict[str, Any]:
    """All facts needed to turn the files back into codes, and to find their source."""
    may_be_added = (BATCH, canary.KEY)  # by a later run of `tokenize`
    identity = dataset.require_identity()
    return {
        "export_version": VERSION,
        "format": export.format,
        "dataset": dataset.root,
        "identity": {name: identity[name] for name in identity if name not in may_be_added},
        "num_codebooks": export.codebooks,
        "ids": export.ids.description(),
        "where": export.where.text if export.where else None,
        _LIBRARIES: library_versions(),
    }


@dataclass(frozen=True, slots=True)
class _Folder:
    """The folder of an export."""

    url: str
    storage: Storage

    @property
    def data(self) -> str:
        return join(self.url, "data")

    def claim(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Write the description, or compare it with that of the folder; return that of the folder.

        Removes temporary files that killed writes left on a local disk.
        """
        for folder in ("", "data", "done"):
            self.storage.clear_leftovers(join(self.url, folder))
        url = join(self.url, DESCRIPTION)
        wanted = json.loads(json.dumps(wanted))
        if not self.storage.exists(url):
            self._refuse_other_files()
            self.storage.put(url, _json(wanted))
            return wanted
        with readable(url):
            found = dict(json.loads(self.storage.read_bytes(url)))
        for name, value in wanted.items():
            if name != _LIBRARIES and found.get(name) != value:
                raise DatasetConflict(
                    f"{self.url} holds an export with {name} = {found.get(name)!r}, this one has "
                    f"{value!r}; set another output"
                )
        return found

    def _refuse_other_files(self) -> None:
        """Raise for files that are not hidden: a write that was killed leaves a hidden one."""
        below = len(self.url) + 1
        names = [info.url[below:] for info in self.storage.list_files(self.url)]
        if others := [name for name in names if not name.startswith(".")]:
            raise InputError(f"{self.url} is not empty, it holds {others[0]}; set another output")

    def records(self) -> dict[str, Record]:
        """The records of the parts that are written, by stem."""
        urls = [info.url for info in self.storage.list_files(join(self.url, "done"))]
        with ThreadPoolExecutor(_PARALLEL_READS) as threads:
            found = threads.map(self._record, [url for url in urls if url.endswith(".json")])
            return {record.stem: record for record in found}

    def _record(self, url: str) -> Record:
        try:
            return Record.from_json(self.storage.read_bytes(url))
        except DAMAGE as error:
            raise InputError(
                f"{url} is damaged: {error}; delete it, and its part is written again"
            ) from error

    def _record_url(self, stem: str) -> str:
        return join(self.url, "done", f"{stem}.json")

    def write(self, source: SourcePart, rows: Iterator[Rows], export: Export) -> Record:
        """Write the files of a part, then its record; a part without rows has no files."""
        counted = _Counted(rows)
        files = []
        if first := next(counted, None):
            groups = chain([first], counted)
            part = Part(source.stem, self.data, source.codec, export.ids.num_ids, groups)
            for name, data in FORMATS[export.format].write(part):
                self.storage.put(join(self.data, name), data)
                files.append(name)
        record = counted.record(source, files)
        self.storage.put(self._record_url(record.stem), record.to_json())
        return record

    def remove(self, record: Record) -> None:
        """Remove the files of a part, then its record."""
        urls = [join(self.data, name) for name in record.files]
        for url in (*urls, self._record_url(record.stem)):
            with suppress(StorageNotFound):  # a run that was stopped removed it
                self.storage.delete(url)

    def describe(self, whole: Whole, export: Export) -> None:
        """Write the files about all parts."""
        for name, data in FORMATS[export.format].describe(whole):
            self.storage.put(join(self.url, name), data)


class _Counted:
    """Counts the rows that pass."""

    def __init__(self, groups: Iterator[Rows]):
        self._groups = groups
        self.rows = self.frames = self.ids = 0
        self.audio_seconds = 0.0

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> Rows:
        group = next(self._groups)
        table = group.table
        self.rows += len(table)
        self.frames += pc.sum(table["num_frames"]).as_py()
        self.ids += int(group.documents.ids.size)
        self.audio_seconds += pc.sum(pc.subtract(table["end"], table["start"])).as_py()
        return group

    def record(self, source: SourcePart, files: list[str]) -> Record:
        """What was written for a part."""
        counts = {name: getattr(self, name) for name in ("rows", "frames", "audio_seconds", "ids")}
        return Record(
            part=source.name, stem=source.stem, source=source.digest, files=files, **counts
        )


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
