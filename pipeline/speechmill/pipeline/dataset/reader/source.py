"""The rows of one dataset at given positions of an epoch."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import tee
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from speechmill.pipeline.dataset.documents import Codes, Utterances, utterances_of
from speechmill.pipeline.dataset.drop import require_applied
from speechmill.pipeline.dataset.layout import TokenDataset, readable
from speechmill.pipeline.dataset.reader.group_reader import GroupReader
from speechmill.pipeline.dataset.reader.intervals import Intervals
from speechmill.pipeline.dataset.reader.order import EpochOrder, Numbers, RowGroups, Window
from speechmill.pipeline.dataset.reader.rows import Rows, selected
from speechmill.pipeline.dataset.row_groups import RowGroup, list_row_groups
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.in_order import in_order

_THREADS = 2  # one waits for the store while the other decompresses
_BYTES_PER_CODE = 4  # of the int32 ids of most patterns; codes as they are stored have 2 or 4
Loaded = tuple[Rows, Numbers]  # the rows that are wanted, and the place of each row among them


@dataclass(frozen=True)
class Source:
    """A dataset as it was listed, and what of its rows is wanted."""

    dataset: TokenDataset
    identity: dict[str, Any]  # of `dataset.json`
    codec: str
    revision: str
    codebook_sizes: tuple[int, ...]
    groups: RowGroups
    columns: tuple[str, ...]  # beside the codes
    where: Where | None

    @classmethod
    def listed(
        cls,
        dataset: TokenDataset,
        columns: tuple[str, ...],
        where: Where | None,
        parts: Collection[str] | None,
    ) -> "Source":
        """The dataset with the parts that it has now; of these, with those of `parts`."""
        groups = list_row_groups(dataset)
        require_applied(dataset)
        if parts is not None:
            groups = [group for group in groups if group.part in parts]
        if not groups:
            cure = "tokenize first" if parts is None else "it has none of `parts`"
            raise InputError(f"{dataset.root} has no rows to read; {cure}")
        identity = dataset.require_identity()
        with readable(dataset.root):
            codec, revision = identity["codec"], identity["revision"]
            sizes = tuple(int(size) for size in identity["codebook_sizes"])
            listed = RowGroups.of(groups)
        return cls(dataset, identity, codec, revision, sizes, listed, columns, where)

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def facts(self) -> dict[str, Any]:
        """What must be the same for a saved state to fit."""
        return {
            "codec": self.codec,
            "revision": self.revision,
            "parts": len(self.groups.parts),
            "rows": self.groups.num_rows,
            "digest": self.groups.digest,
        }

    def rows(
        self,
        order: EpochOrder,
        positions: Intervals,
        prepare: Callable[[Utterances], Rows],
        max_bytes: int,
    ) -> Iterator[tuple[int, Any]]:
        """The rows at these positions that `where` selects, each with its position.

        `prepare` is called for the selected rows of a whole row group, in their stored order.
        Row groups are read up to `max_bytes` ahead.
        """
        windows, ahead = tee(order.windows(positions))
        groups = (group for window, _ in ahead for group in window.groups)
        asked = (*self.columns, *(self.where.columns if self.where else ()))
        columns = tuple(dict.fromkeys(("codes", "num_frames", *asked)))
        reader = GroupReader(self.dataset, self.identity, columns)
        load = partial(self._load, reader, prepare)
        # A store that hangs must not hold up a reader that is closed.
        loaded = in_order(groups, load, self._num_bytes, max_bytes, threads=_THREADS, wait=False)
        for window, mine in windows:
            yield from _shuffled(window, mine, [next(loaded) for _ in window.groups])

    def _num_bytes(self, group: RowGroup) -> int:
        return group.frames * self.num_codebooks * _BYTES_PER_CODE

    def _load(
        self, reader: GroupReader, prepare: Callable[[Utterances], Rows], group: RowGroup
    ) -> Loaded:
        url, table = self.dataset.part_url(group.part), reader.read(group)
        with readable(url):
            utterances = utterances_of(table, self.num_codebooks)
            counted_B = table["num_frames"].to_numpy() * np.int64(self.num_codebooks)
            if not np.array_equal(pc.list_value_length(table["codes"]).to_numpy(), counted_B):
                raise ValueError("the codes of a row are not those of num_frames frames")
            _require_legal(utterances.codes_NK, self.codebook_sizes)
            mask_B = self.where.mask(table) if self.where else np.full(len(table), True)
        try:
            rows = prepare(selected(utterances, mask_B))
        except InputError as error:
            raise InputError(f"{url}: {error}") from error
        except (UnicodeDecodeError, pa.ArrowException) as error:  # not faults of an encoder
            raise InputError(f"{url} is damaged: {error!r}; see `speechmill verify`") from error
        return rows, np.where(mask_B, np.cumsum(mask_B) - 1, -1)


def _require_legal(codes_NK: Codes, sizes: tuple[int, ...]) -> None:
    """Raise `ValueError` for codes that no embedding of their codebooks has."""
    if codes_NK.dtype.kind != "u":
        raise ValueError(f"its codes are {codes_NK.dtype}")
    if codes_NK.size and codes_NK.max() >= min(sizes) and (codes_NK >= np.array(sizes)).any():
        raise ValueError(f"a code is not in its codebook, of {list(sizes)} codes")


def _shuffled(
    window: Window, positions: Intervals, loaded: list[Loaded]
) -> Iterator[tuple[int, Any]]:
    """The rows of a window at these positions."""
    order_W = window.order()
    groups_W = np.repeat(np.arange(len(loaded)), [len(place) for _, place in loaded])
    places_W = np.concatenate([place for _, place in loaded])
    rows = [rows for rows, _ in loaded]
    for start, stop in positions:
        own = order_W[start - window.start : stop - window.start]
        places, groups = places_W[own].tolist(), groups_W[own].tolist()
        for position, place, group in zip(range(start, stop), places, groups, strict=True):
            if place >= 0:
                yield position, rows[group][place]
