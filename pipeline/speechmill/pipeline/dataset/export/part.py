"""What a format gets: a part of a dataset with a document for each row, and then the whole."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.dataset.documents import Documents
from speechmill.pipeline.dataset.names import RowNames
from speechmill.pipeline.text import json_file

Array = npt.NDArray[Any]
Files = Iterator[tuple[str, bytes]]  # names and contents

_UINT16_IDS = 2**16


def ids_type(num_ids: int) -> np.dtype[Any]:
    """uint16 if every id fits, else int32."""
    return np.dtype("<u2" if num_ids <= _UINT16_IDS else "<i4")


@dataclass(frozen=True, slots=True)
class Utterance:
    """One row: a name that no other row of the part has, its ids, and its columns."""

    name: str
    ids: Array  # (N,) or (rows, streams)
    facts: dict[str, Any]  # `metadata` is the text of its JSON


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a part, at least one, and the document of each."""

    table: pa.Table  # all columns but the codes
    documents: Documents
    num_frames: int  # of all documents, which may hold those of further rows

    def utterances(self, names: RowNames, kind: np.dtype[Any]) -> Iterator[Utterance]:
        """The rows one by one."""
        ids = self.documents.ids.astype(kind)
        ids_B = np.split(ids, np.cumsum(self.documents.lengths_B)[:-1])
        return map(Utterance, names.of(self.table), ids_B, self.table.to_pylist())


@dataclass(frozen=True, slots=True)
class Part:
    """One part: the name of its files, and its rows, a row group at a time."""

    stem: str
    folder: str  # URL of the folder of the files
    codec: CodecInfo
    num_ids: int  # every id is below
    groups: Iterator[Rows]

    @property
    def kind(self) -> np.dtype[Any]:
        """The type of ids in arrays of NumPy."""
        return ids_type(self.num_ids)

    def utterances(self, forbidden: re.Pattern[str]) -> Iterator[Utterance]:
        """The rows one by one, with names that hold nothing of what is forbidden."""
        names = RowNames(forbidden)
        for rows in self.groups:
            yield from rows.utterances(names, self.kind)


@dataclass(frozen=True, slots=True)
class Record:
    """What was written for one part; `source` changes with the part."""

    part: str
    stem: str
    source: str
    documents: int
    frames: int
    ids: int
    files: Sequence[str]

    def to_json(self) -> bytes:
        """As a file."""
        return json_file(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> "Record":
        """Raises `ValueError` or `TypeError` if it is damaged, or names files of other folders."""
        found = cls(**json.loads(data))
        if "/" in "".join([found.stem, *found.files]):
            raise ValueError(f"{found.files} are not names of files")
        if not all(isinstance(n, int) for n in (found.documents, found.frames, found.ids)):
            raise ValueError("its counts are not numbers")
        return found


@dataclass(frozen=True, slots=True)
class Whole:
    """An export whose parts are written, for the files that describe it."""

    folder: str  # URL of the folder of the parts' files
    description: dict[str, Any]  # of `export.json`
    codec: CodecInfo
    streams: int | None  # columns of a document; None: documents are sequences of ids
    records: Sequence[Record]


def json_line(facts: dict[str, Any]) -> bytes:
    """One line of JSON."""
    return (json.dumps(facts) + "\n").encode()
