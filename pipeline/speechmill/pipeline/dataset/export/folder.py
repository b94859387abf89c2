"""The folder of an export: its description, the files of its parts, and a record of each part.

export.json         what was exported and how; written first
data/               the files of the format
done/<part>.json    what was written for a part; written after its files
README.md, …        files about all parts, for some formats; written last
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any

from speechmill.pipeline.dataset.export.formats import Format
from speechmill.pipeline.dataset.export.part import Part, Record, Rows, Whole
from speechmill.pipeline.dataset.export.source import SourcePart
from speechmill.pipeline.dataset.layout import DAMAGE, readable
from speechmill.pipeline.errors import DatasetConflict, InputError, StorageNotFound
from speechmill.pipeline.storage import Storage, join
from speechmill.pipeline.text import json_file

DESCRIPTION = "export.json"
EXPORT_VERSION = "export_version"  # of the description
LIBRARIES = "libraries"  # of the description: those of the run that began the export
_PARALLEL_READS = 32


@dataclass(frozen=True, slots=True)
class ExportFolder:
    """The folder of an export."""

    url: str
    storage: Storage
    format: Format
    num_ids: int

    @property
    def data(self) -> str:
        return join(self.url, "data")

    def claim(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """Write the description if there is none, and return that of the folder, which is equal."""
        url = join(self.url, DESCRIPTION)
        wanted = json.loads(json.dumps(wanted))
        if not self.storage.exists(url):
            self._refuse_other_files()
            self.storage.put_new(url, json_file(wanted))  # another export may be first
        with readable(url):
            found = dict(json.loads(self.storage.read_bytes(url)))
        if (version := found.get(EXPORT_VERSION)) != wanted[EXPORT_VERSION]:
            raise DatasetConflict(
                f"{self.url} holds an export of {EXPORT_VERSION} {version}, and this version of "
                f"speechmill writes {wanted[EXPORT_VERSION]}; set another output"
            )
        for fact in _differences(found, wanted | {LIBRARIES: found.get(LIBRARIES)}):
            raise DatasetConflict(f"{self.url} holds an export with {fact}; set another output")
        return found

    def _refuse_other_files(self) -> None:
        """Raise for files that are not hidden: a write that was killed leaves a hidden one.

        If there is a description, another export began in the meantime, and they are its files.
        """
        below = len(self.url) + 1
        names = [info.url[below:] for info in self.storage.list_files(self.url)]
        others = [name for name in names if not name.startswith(".")]
        if others and DESCRIPTION not in others:
            raise InputError(f"{self.url} is not empty, it holds {others[0]}; set another output")

    def records(self) -> dict[str, Record]:
        """The records of the parts that are written, by stem."""
        urls = [info.url for info in self.storage.list_files(join(self.url, "done"))]
        with ThreadPoolExecutor(_PARALLEL_READS) as threads:
            found = threads.map(self._record, [url for url in urls if url.endswith(".json")])
            return {record.stem: record for record in found}

    def data_files(self) -> set[str]:
        """The names of the files of the parts."""
        return {info.url.rpartition("/")[2] for info in self.storage.list_files(self.data)}

    def _record(self, url: str) -> Record:
        try:
            return Record.from_json(self.storage.read_bytes(url))
        except DAMAGE as error:
            raise InputError(
                f"{url} is damaged: {error}; delete it, and its part is written again"
            ) from error

    def _record_url(self, stem: str) -> str:
        return join(self.url, "done", f"{stem}.json")

    def write(self, source: SourcePart, rows: Iterator[Rows]) -> Record:
        """Write the files of a part, then its record; a part without rows has no files."""
        counted = _Counted(rows)
        files = []
        if first := next(counted, None):
            groups = chain([first], counted)
            part = Part(source.stem, self.data, source.codec, self.num_ids, groups)
            for name, data in self.format.write(part):
                self.storage.put(join(self.data, name), data)
                files.append(name)
        record = Record(
            part=source.name,
            stem=source.stem,
            source=source.digest,
            documents=counted.documents,
            frames=counted.frames,
            ids=counted.ids,
            files=files,
        )
        self.storage.put(self._record_url(record.stem), record.to_json())
        return record

    def remove(self, record: Record) -> None:
        """Remove the files of a part, then its record."""
        urls = [join(self.data, name) for name in record.files]
        for url in (*urls, self._record_url(record.stem)):
            with suppress(StorageNotFound):  # a run that was stopped removed it
                self.storage.delete(url)

    def clear_leftovers(self, before: float) -> None:
        """Remove what writes that were killed before a time left on a local disk.

        lhotse takes every file in `data/` for one of its own.
        """
        for folder in ("", "data", "done"):
            self.storage.clear_leftovers(join(self.url, folder), before)

    def describe(self, whole: Whole) -> None:
        """Write the files about all parts."""
        for name, data in self.format.describe(whole):
            self.storage.put(join(self.url, name), data)


class _Counted:
    """Counts the rows that pass."""

    def __init__(self, groups: Iterator[Rows]):
        self._groups = groups
        self.documents = self.frames = self.ids = 0

    def __iter__(self) -> "_Counted":
        return self

    def __next__(self) -> Rows:
        rows = next(self._groups)
        self.documents += len(rows.table)
        self.frames += rows.num_frames
        self.ids += int(rows.documents.ids.size)
        return rows


def _differences(found: Any, wanted: Any, name: str = "") -> Iterator[str]:
    """The names of the facts that differ, with their values."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in wanted | found:  # what others follow from comes first
            yield from _differences(found.get(key), wanted.get(key), f"{name}.{key}".lstrip("."))
    elif found != wanted:
        yield f"{name} = {found!r}, this one has {wanted!r}"
