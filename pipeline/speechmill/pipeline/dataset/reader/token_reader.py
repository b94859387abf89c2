"""The rows of token datasets for training, as an iterable dataset of PyTorch."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils.data import IterableDataset

from speechmill.pipeline.dataset.documents import Encoder
from speechmill.pipeline.dataset.reader.arguments import (
    Datasets,
    description_of,
    known_columns,
    opened,
    pairs_of,
    require_number,
    require_one_codec,
    require_parts,
    require_settings,
)
from speechmill.pipeline.dataset.reader.blank import ids_per_frame
from speechmill.pipeline.dataset.reader.blend import Blend, Until, phases
from speechmill.pipeline.dataset.reader.feed import Drawn, Feed, Reading
from speechmill.pipeline.dataset.reader.packing import Long, Packer
from speechmill.pipeline.dataset.reader.rows import EncodedRows, Item, PlainRows
from speechmill.pipeline.dataset.reader.source import Source
from speechmill.pipeline.dataset.reader.split import Tail, ranks_here, split_here
from speechmill.pipeline.dataset.reader.state import Base, Place, ReaderState, plain, refuse_other
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import InputError, check_choice
from speechmill.pipeline.storage import Storage


class TokenReader(IterableDataset[Item]):
    """The utterances of token datasets, or sequences packed with their documents.

    With an `encoder` and a `sequence_length` it gives packed sequences (`Packer`), without them
    one utterance after the other: its `codes` of shape (frames, codebooks), uint16 or uint32, and
    `columns`. Every row comes once in an epoch, on one worker of one rank; in which order is a
    function of the datasets, `seed` and the epoch. The parts that exist when it is made are read.

    Raises `InputError`, also while it is read, for what is impossible or damaged.
    """

    def __init__(
        self,
        datasets: Datasets,
        encoder: Encoder | None = None,
        sequence_length: int | None = None,
        *,
        seed: int = 0,
        rank: int | None = None,  # both by default those of torch.distributed
        world_size: int | None = None,
        columns: Sequence[str] = ("key", "text"),  # of utterances that are not packed
        where: str | None = None,  # a condition for rows, as `duration > 1`
        parts: Collection[str] | None = None,  # names of those to read; default all
        shuffle_rows: int | None = 16_384,  # that are in memory; None keeps the order
        until: str = Until.FIRST,
        tail: str = Tail.KEEP,
        long_documents: str = Long.SPLIT,
        pad_id: int = 0,
        read_ahead: int = 2**28,  # bytes
        storage: Storage | None = None,
    ):
        weighted = pairs_of(datasets)
        require_settings(weighted, encoder, sequence_length, parts)
        require_number("seed", seed, 0)
        require_number("rank", rank, 0, or_none=True)
        require_number("world_size", world_size, 1, or_none=True)
        require_number("shuffle_rows", shuffle_rows, 1, or_none=True)
        require_number("sequence_length", sequence_length, 1, or_none=True)
        require_number("pad_id", pad_id, -(2**63))
        require_number("read_ahead", read_ahead, 0)
        for name, value, choices in (
            ("until", until, Until),
            ("tail", tail, Tail),
            ("long_documents", long_documents, Long),
        ):
            check_choice(name, value, list(choices))
        self._encoder, self._columns = encoder, known_columns(columns)
        self._rank, self._world_size = ranks_here(rank, world_size)
        self._seed, self._shuffle_rows, self._read_ahead = seed, shuffle_rows, read_ahead
        self._until, self._tail = Until(until), Tail(tail)
        self._weights = [float(weight) for _, weight in weighted]
        needed = self._columns if encoder is None else encoder.columns
        storage = storage or Storage()
        condition = None if where is None else Where(where)
        wanted = None if parts is None else frozenset(parts)
        self._sources = [
            Source.listed(opened(each, storage), needed, condition, wanted) for each, _ in weighted
        ]
        require_parts(wanted, self._sources)
        require_one_codec(self._sources)
        self._packer = self._made_packer(sequence_length, Long(long_documents), pad_id)
        self._require_even(condition)
        self._identity = self._made_identity(where, sequence_length, long_documents)
        # Workers that live for several epochs see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._loaded: ReaderState | None = None
        self._running: ReaderState | None = None

    @property
    def num_rows(self) -> int:
        """The rows of all datasets, before `where`."""
        return sum(source.groups.num_rows for source in self._sources)

    @property
    def parts(self) -> list[str]:
        """The names of the parts that are read, for another reader of the same ones."""
        return [part for source in self._sources for part in source.groups.parts]

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration gives; a loaded state of it stays."""
        require_number("epoch", epoch, 0)
        self._epoch.fill_(epoch)
        self._running = None

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration of this process is, as plain JSON."""
        return (self._running or self._start()).to_json()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue at the next item; takes what `merge_states` returns, too.

        Raises `InputError` if the state is of other datasets, another seed, length or encoder.
        """
        state = ReaderState.from_json(state_dict)
        refuse_other(state.identity, self._identity, "the state", "this reader")
        self._loaded, self._running = state, None

    def __iter__(self) -> Iterator[Item]:
        self._running = self._start()
        return self._items(self._running)

    def _items(self, state: ReaderState) -> Iterator[Item]:
        drawn = iter(self._blend(state))
        yield from self._packer.sequences(drawn) if self._packer else _contents(drawn)
        self._loaded = None  # it was continued to its end, so a further iteration is a whole epoch

    def _blend(self, state: ReaderState) -> Blend:
        assert state.split
        prepare = (
            partial(EncodedRows.of, encoder=self._encoder)
            if self._encoder
            else partial(PlainRows.of, columns=self._columns)
        )
        reading = Reading(
            prepare=prepare,
            counts_ids=self._encoder is not None,
            seed=self._seed,
            window_rows=self._shuffle_rows,
            read_ahead=self._read_ahead // len(self._sources),
            tail=self._tail,
        )
        feeds = [
            Feed(source, base, state.split, place, reading)
            for source, base, place in zip(self._sources, state.bases, state.places, strict=True)
        ]
        unit = self._packer.length if self._packer else 1
        key = (self._seed, state.epoch, state.split.index, state.split.count)
        return Blend(feeds, self._weights, phases(len(feeds), unit, key), self._until, state.epoch)

    def _start(self) -> ReaderState:
        """The place at which an iteration begins: the loaded one, or that of a later epoch."""
        split = split_here(self._rank, self._world_size)
        epoch, loaded = int(self._epoch), self._loaded
        if loaded is None or loaded.epoch < epoch:
            bases = [Base(epoch) for _ in self._sources]
            places = [Place(epoch) for _ in self._sources]
            return ReaderState(self._identity, epoch, bases, split, places)
        if loaded.split is None:
            places = [Place(base.epoch) for base in loaded.bases]
        elif loaded.split == split:
            places = [replace(place) for place in loaded.places]
        else:
            raise InputError(
                f"the state is of {loaded.split}, and this is {split}; merge the states of all "
                "ranks by merge_states"
            )
        return replace(loaded, split=split, places=places)

    def _made_packer(self, length: int | None, long: Long, pad_id: int) -> Packer | None:
        if self._encoder is None or length is None:
            return None
        frame = max(ids_per_frame(self._encoder, s.num_codebooks) for s in self._sources)
        if length < frame:
            raise InputError(f"sequence_length is {length}, and one frame alone has {frame} ids")
        return Packer(length, long, pad_id)

    def _require_even(self, where: Where | None) -> None:
        if self._tail == Tail.KEEP:
            return
        if self._packer or where or len(self._sources) > 1 or self._until == Until.NEVER:
            raise InputError(
                f"tail is {self._tail!s}, which counts the rows of one dataset as they are stored, "
                "without where and packing; take even_batches for equal numbers of other batches"
            )

    def _made_identity(self, where: str | None, length: int | None, long: str) -> dict[str, Any]:
        """What must be the same for a saved state to fit."""
        return plain(
            {
                "seed": self._seed,
                "shuffle_rows": self._shuffle_rows,
                "encoder": description_of(self._encoder),
                "sequence_length": length,
                "long_documents": long if length else None,
                "where": where,
                "weights": self._weights,
                "until": self._until,
                "tail": self._tail,
                "datasets": [source.facts for source in self._sources],
            }
        )


def _contents(rows: Iterator[Drawn]) -> Iterator[Item]:
    for row in rows:
        row.finish()
        yield row.content
