"""Where readers are: the state of one consumer, and of all of them together.

A state is plain JSON. That of one consumer says how the epoch was shared out, and how far this
consumer is in its share. `merge_states` makes of those of all consumers one state that says which
positions were given out, for any number of consumers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from speechmill.pipeline.dataset.reader.intervals import Intervals, below, complement, union
from speechmill.pipeline.dataset.reader.split import Split, Tail
from speechmill.pipeline.errors import InputError

VERSION = 1
_MARK = "speechmill_reader"
_LATE = "_steps_since_snapshot"  # of a state of StatefulDataLoader


@dataclass(slots=True)
class Place:
    """How far one consumer is in one dataset."""

    epoch: int  # of this dataset, which may begin again before others end
    position: int = 0  # of the first row that is not given out as a whole
    offset: int = 0  # ids of that row that are given out
    given: int = 0  # rows, or ids of packed rows, since the state was made

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Place":
        found = cls(**{name: int(value) for name, value in saved.items()})
        if min(asdict(found).values()) < 0:
            raise ValueError(f"{found} is not a place")
        return found


@dataclass(frozen=True, slots=True)
class Taken:
    """What of one epoch of a dataset was given out before it was shared out anew."""

    rows: Intervals = field(default_factory=list)
    offsets: dict[int, int] = field(default_factory=dict)  # ids given out, by position

    def to_json(self) -> dict[str, Any]:
        offsets = {str(position): offset for position, offset in self.offsets.items()}
        return {"rows": [list(pair) for pair in self.rows], "offsets": offsets}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Taken":
        rows = [(int(start), int(stop)) for start, stop in saved["rows"]]
        return cls(union(rows), {int(k): int(offset) for k, offset in saved["offsets"].items()})


@dataclass(frozen=True, slots=True)
class Base:
    """What was given out of one dataset before it was shared out anew."""

    epoch: int  # the first one of which something is left
    taken: dict[int, Taken] = field(default_factory=dict)  # by epoch

    def of(self, epoch: int) -> Taken:
        return self.taken.get(epoch, Taken())

    def share(self, epoch: int, rows: int, split: Split, tail: Tail) -> Intervals:
        """The positions of an epoch that a consumer gives out."""
        return split.share(complement(self.of(epoch).rows, rows), tail)

    def to_json(self) -> dict[str, Any]:
        taken = {str(epoch): taken.to_json() for epoch, taken in self.taken.items()}
        return {"epoch": self.epoch, "taken": taken}

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Base":
        taken = {int(epoch): Taken.from_json(each) for epoch, each in saved["taken"].items()}
        return cls(int(saved["epoch"]), taken)


@dataclass(frozen=True, slots=True)
class ReaderState:
    """A state; `split` and `places` are missing in that of all consumers."""

    identity: dict[str, Any]  # of the reader
    epoch: int  # of the reader
    bases: list[Base]  # one for each dataset, as `places`
    split: Split | None = None
    places: list[Place] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Of plain lists, dicts, numbers and strings."""
        saved = {
            _MARK: VERSION,
            "identity": self.identity,
            "epoch": self.epoch,
            "bases": [base.to_json() for base in self.bases],
        }
        if self.split:
            saved |= {"split": asdict(self.split), "places": [asdict(p) for p in self.places]}
        return saved

    @classmethod
    def from_json(cls, saved: Any) -> "ReaderState":
        """Raises `InputError` if it is not the state of a reader."""
        try:
            if saved[_MARK] != VERSION:
                raise InputError(
                    f"the state is of version {saved[_MARK]!r}; this version of speechmill reads "
                    f"{VERSION}; install the one that saved it"
                )
            found = cls(
                identity=dict(saved["identity"]),
                epoch=int(saved["epoch"]),
                bases=[Base.from_json(base) for base in saved["bases"]],
                split=Split(**saved["split"]) if "split" in saved else None,
                places=[Place.from_json(place) for place in saved.get("places", [])],
            )
            found._require_legal([int(facts["rows"]) for facts in found.identity["datasets"]])
            return found
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"this is not the state of a TokenReader: {error!r}") from error

    def _require_legal(self, rows_of_datasets: Sequence[int]) -> None:
        """Raise `ValueError` for places that no reader of these numbers of rows can have."""
        Tail(self.identity["tail"])  # which merge_states needs
        count = len(rows_of_datasets)
        if len(self.bases) != count or len(self.places) != (count if self.split else 0):
            raise ValueError(f"it has no place in each of {count} datasets")
        for base, rows in zip(self.bases, rows_of_datasets, strict=True):
            edges = [edge for taken in base.taken.values() for pair in taken.rows for edge in pair]
            if not 0 <= self.epoch <= base.epoch or not all(0 <= edge <= rows for edge in edges):
                raise ValueError(f"{base} is not of a dataset of {rows} rows in epoch {self.epoch}")
        for base, place in zip(self.bases, self.places, strict=bool(self.split)):
            if place.epoch < base.epoch:
                raise ValueError(f"{place} is before epoch {base.epoch}")


def plain(identity: Mapping[str, Any]) -> dict[str, Any]:
    """The identity as JSON gives it back."""
    return dict(json.loads(json.dumps(identity)))


def merge_states(states: Sequence[Any]) -> dict[str, Any]:
    """One state from those of all ranks, to continue the epoch under any number of ranks.

    Each is a `state_dict` of a `TokenReader`, or of a `StatefulDataLoader` over one, or any
    checkpoint of lists and dicts that holds them. Load the result into the reader, before a loader
    is made of it. Raises `InputError` if a state is missing, or does not fit the others.
    """
    found = [ReaderState.from_json(saved) for saved in _reader_states(states)]
    splits = [state.split for state in found if state.split]
    if not found or len(splits) < len(found):
        raise InputError("give merge_states the state of each rank, as state_dict() returns it")
    _require_alike(found)
    _require_all(splits)
    rows = [facts["rows"] for facts in found[0].identity["datasets"]]
    bases = [_merged(found, source, count) for source, count in enumerate(rows)]
    return ReaderState(found[0].identity, found[0].epoch, bases).to_json()


def _reader_states(saved: Any) -> Iterator[Any]:
    if isinstance(saved, Mapping):
        if saved.get(_LATE):
            raise InputError(
                f"the loader's state is {saved[_LATE]} batches behind its batches; set "
                "snapshot_every_n_steps=1 in StatefulDataLoader"
            )
        if _MARK in saved:
            yield saved
        else:
            for value in saved.values():
                yield from _reader_states(value)
    elif isinstance(saved, list | tuple):
        for value in saved:
            yield from _reader_states(value)


def _require_alike(states: list[ReaderState]) -> None:
    first = states[0]
    for state in states[1:]:
        refuse_other(state.identity, first.identity, "one state", "another")
        if (state.epoch, state.bases) != (first.epoch, first.bases):
            raise InputError(
                f"the states are of epochs {first.epoch} and {state.epoch}, or continue different "
                "states; take all of them at the same step"
            )


def _require_all(splits: list[Split]) -> None:
    """Refuse states of other numbers of consumers, and any that is missing or there twice."""
    counts = {(split.world_size, split.num_workers) for split in splits}
    if len(counts) > 1:
        shown = " and ".join(f"{ranks} ranks of {workers} workers" for ranks, workers in counts)
        raise InputError(f"the states are of {shown}; take those of one run")
    indices = [split.index for split in splits]
    if missing := set(range(splits[0].count)) - set(indices):
        rank, worker = divmod(min(missing), splits[0].num_workers)
        raise InputError(
            f"{len(missing)} of {splits[0].count} states are missing, first that of rank {rank}, "
            f"worker {worker}; without them rows would come twice"
        )
    if len(indices) > splits[0].count:
        raise InputError(f"{len(indices)} states are given for {splits[0].count} consumers")


def _merged(states: list[ReaderState], source: int, rows: int) -> Base:
    """What was given out of a dataset by all."""
    base = states[0].bases[source]
    last = max(max(state.places[source].epoch for state in states), *base.taken, base.epoch)
    first = min(state.places[source].epoch for state in states)
    taken = {epoch: _given_out(states, source, epoch, rows) for epoch in range(first, last + 1)}
    while first <= last and taken[first].rows == [(0, rows)]:
        first += 1
    return Base(first, {e: each for e, each in taken.items() if e >= first and each != Taken()})


def _given_out(states: list[ReaderState], source: int, epoch: int, rows: int) -> Taken:
    base = states[0].bases[source]
    intervals, offsets = list(base.of(epoch).rows), dict(base.of(epoch).offsets)
    for state in states:
        place = state.places[source]
        if state.split is None or place.epoch < epoch:
            continue
        share = base.share(epoch, rows, state.split, Tail(state.identity["tail"]))
        intervals += share if place.epoch > epoch else below(share, place.position)
        if place.epoch == epoch and place.offset:
            offsets[place.position] = place.offset
    done = union(intervals)
    left = {p: o for p, o in offsets.items() if not any(a <= p < b for a, b in done)}
    return Taken(done, left)


def refuse_other(saved: Mapping[str, Any], own: Mapping[str, Any], theirs: str, ours: str) -> None:
    """Raise `InputError` with the first difference between two identities of readers."""
    for name in own:
        different = _difference(name, saved.get(name), own[name])
        if different and name == "datasets":
            raise InputError(
                f"{theirs} is of {_described(saved[name])}, {ours} has {_described(own[name])}; "
                "the order of an epoch depends on them: name the parts of then by parts=, or begin "
                "an epoch without the state"
            )
        if different:
            path, old, new = different
            raise InputError(
                f"{theirs} is of {path} = {old!r}, {ours} has {new!r}; set {name} as it was, or "
                "begin an epoch without the state"
            )


def _difference(path: str, old: Any, new: Any) -> tuple[str, Any, Any] | None:
    """The innermost path of the first difference, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in {**old, **new}:
            if found := _difference(f"{path}.{name}", old.get(name), new.get(name)):
                return found
        return None
    return None if old == new else (path, old, new)


def _described(datasets: Sequence[Mapping[str, Any]]) -> str:
    """The datasets in few words, which differ if the datasets do."""
    return ", ".join(
        f"{facts['rows']} rows in {facts.get('parts')} parts ({facts.get('digest')}) of "
        f"{facts.get('codec')} {facts.get('revision')}"
        for facts in datasets
    )
