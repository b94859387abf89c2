"""Exports a token dataset, part by part, into a folder that holds nothing else.

A part is written if it has no record in `done/`, if a file of it is gone, or if it changed since,
as after `speechmill drop`. So the export is a function of the dataset and the settings, however
often it was stopped. No file holds a time.
"""

import logging
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from speechmill.pipeline.dataset.export.folder import EXPORT_VERSION, LIBRARIES, ExportFolder
from speechmill.pipeline.dataset.export.formats import FORMATS
from speechmill.pipeline.dataset.export.ids import Ids
from speechmill.pipeline.dataset.export.part import Record, Whole
from speechmill.pipeline.dataset.export.source import Reader, SourcePart, source_parts
from speechmill.pipeline.dataset.layout import BATCH, TokenDataset
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import InputError, check_choice
from speechmill.pipeline.in_order import in_order
from speechmill.pipeline.tokenize import canary
from speechmill.pipeline.versions import library_versions

logger = logging.getLogger(__name__)

VERSION = 2  # of the files of an export; the first had `done/` without records
_THREADS = 8
_IN_FLIGHT = 2**26  # bytes of parts that are written at a time, with ten times as much memory


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

    `output` is absolute. Raises `InputError` if the folder holds other files or is in the dataset,
    and `DatasetConflict` if it holds another export.
    """
    started = time.time()
    dataset.refuse_inside(output)
    format = FORMATS[export.format]
    if format.listed_by_words and re.search(r"\s", output):
        raise InputError(
            f"{output!r} has white space, at which the readers of {export.format} cut the names of "
            "files; set another output"
        )
    folder = ExportFolder(output, dataset.storage, format, export.ids.num_ids)
    sources = {part.stem: part for part in source_parts(dataset)}
    description = folder.claim(_description(dataset, export))
    records, present = folder.records(), folder.data_files()
    reader = Reader(dataset, export.ids, export.codebooks, export.where)

    def write(source: SourcePart) -> Record:
        return folder.write(source, reader.rows(source))

    for stem, record in list(records.items()):
        changed = stem not in sources or record.source != sources[stem].digest
        if changed or not present.issuperset(record.files):
            folder.remove(records.pop(stem))
            if stem not in sources:
                logger.warning("removed %s, which the dataset no longer has", record.part)
    missing = [part for stem, part in sources.items() if stem not in records]
    for record in in_order(missing, write, lambda part: part.bytes, _IN_FLIGHT, threads=_THREADS):
        records[record.stem] = record
        yield record
    if sources:
        codec = next(iter(sources.values())).codec
        streams = None if export.ids.streams is None else len(export.ids.streams)
        written = [records[stem] for stem in sources]
        folder.describe(Whole(folder.data, description, codec, streams, written))
    folder.clear_leftovers(started)  # of earlier runs: another one may be writing now


def _description(dataset: TokenDataset, export: Export) -> dict[str, Any]:
    """All facts needed to turn the files back into codes, and to find their source."""
    may_be_added = (BATCH, canary.KEY)  # by a later run of `tokenize`
    identity = dataset.require_identity()
    return {
        EXPORT_VERSION: VERSION,
        "format": export.format,
        "dataset": dataset.root,
        "identity": {name: identity[name] for name in identity if name not in may_be_added},
        "num_codebooks": export.codebooks,
        "ids": export.ids.description(),
        "where": export.where.text if export.where else None,
        LIBRARIES: library_versions(),
    }
