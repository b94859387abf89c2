"""Which members of a tar are one sample, and with which key.

The key of a member is its path up to the first dot of the file name, as in WebDataset, and a sample
is a run of adjacent members with one key. If audio and another member of a run share a longer stem
and no member has the short one, the longer stem is the key: `x_0.00.flac`, `x_0.00.json` and
`x_0.00.txt` are the sample `x_0.00`, and `x_0.10.flac` after them is the sample `x_0.10`. Beside
members of the short stem this holds only after a decimal point, a dot between two digits:
`x_0.flac`, `x_0.json`, `x_0.9.flac` and `x_0.9.json` are two samples, but `x.flac`, `x.json`,
`x.enhanced.flac` and `x.enhanced.json` are one. A run with the member that `audio.member` names
keeps the short key.

Only names and sizes decide, so that a reader without the data finds the same samples.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import Enum, auto

from speechmill.pipeline.audio.integrity import AUDIO_SUFFIXES
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import NoAudio, OversizedAudio, SampleError

_MOST_MEMBERS = 10_000  # of one sample
# What is held of a run before it is known where its keys end.
_UNDECIDED_AUDIO = 64
_UNDECIDED_BYTES = 2**28


@dataclass(frozen=True, slots=True)
class Member:
    """One member of a tar; without data if it has a fault."""

    name: str
    size: int  # bytes in the tar
    data: Blob = b""
    fault: SampleError | None = None


@dataclass(slots=True)
class Group:
    """The members of one sample, by suffix."""

    key: str | None  # None: the name of the only member has none
    members: dict[str, Member] = field(default_factory=dict)
    fault: SampleError | None = None


@dataclass(frozen=True, slots=True)
class _Named:
    """A member, with its file name after the first dot."""

    rest: str
    member: Member

    @property
    def stem(self) -> str:
        return self.rest.rpartition(".")[0]

    @property
    def format(self) -> str:
        return self.rest.rpartition(".")[2].lower()

    def without_data(self) -> "_Named":
        return replace(self, member=replace(self.member, data=b""))


class _State(Enum):
    """Where the keys of a run end."""

    UNDECIDED = auto()
    SHORT = auto()  # at the first dot
    LONG = auto()  # before the last one
    AMBIGUOUS = auto()


def split_name(name: str) -> tuple[str | None, str]:
    """A name up to the first dot of its file name, and the rest; no key if it starts with a dot."""
    folder, slash, file = name.rpartition("/")
    first, dot, rest = file.partition(".")
    return (folder + slash + first, rest) if first and dot else (None, "")


def group_members(
    members: Iterable[Member], max_bytes: int, audio_member: str | None
) -> Iterator[Group]:
    """The samples of a tar, in order; each holds at most `max_bytes` of data."""
    run: _Run | None = None
    for member in members:
        key, rest = split_name(member.name)
        if run is None or not run.takes(key, rest):
            if run:
                yield from run.finish()
            run = _Run(key, max_bytes, audio_member)
        yield from run.add(_Named(rest, member))
    if run:
        yield from run.finish()


class _Run:
    """Adjacent members whose names are equal up to the first dot."""

    def __init__(self, key: str | None, max_bytes: int, audio_member: str | None):
        self._key = key
        self._max_bytes = max_bytes
        self._audio_member = audio_member
        self._state = _State.UNDECIDED
        self._held: dict[str, _Named] = {}  # by the rest of the name, in lower case
        self._stem = ""  # of the held members, if keys are long
        self._size = self._num_audio = 0
        self._fault: SampleError | None = None

    def takes(self, key: str | None, rest: str) -> bool:
        """Whether a member belongs to this run; a name that comes again does not."""
        return key is not None and key == self._key and rest.lower() not in self._held

    def add(self, named: _Named) -> Iterator[Group]:
        """Take a member; yield the samples that are complete."""
        if self._state is _State.AMBIGUOUS:
            yield self._rejected(named)
            return
        if self._state is _State.LONG and not self._joins(named.stem):
            yield self._release()
        self._hold(named)
        if self._state is _State.UNDECIDED:
            yield from self._decide(named)

    def finish(self) -> Iterator[Group]:
        """Yield the samples that are left."""
        if self._state in (_State.UNDECIDED, _State.SHORT) and self._has_long_keys():
            yield from self._cut()
        if self._held:
            yield self._release()

    def _hold(self, named: _Named) -> None:
        if self._state is _State.LONG and (not self._held or len(named.stem) < len(self._stem)):
            self._stem = named.stem
        self._size += named.member.size
        self._num_audio += self._is_audio(named)
        if self._state is not _State.UNDECIDED:
            self._limit()
        if not self._fault:
            self._held[named.rest.lower()] = named
        elif len(self._held) < _MOST_MEMBERS:
            self._held[named.rest.lower()] = named.without_data()

    def _limit(self) -> None:
        """Let go of the data of a sample that is too large; only its names are kept."""
        if self._fault or not self._held:
            return
        if len(self._held) >= _MOST_MEMBERS:
            self._fault = OversizedAudio(f"over {_MOST_MEMBERS} members of {self._key!r}")
        elif 0 <= self._max_bytes < self._size:
            self._fault = OversizedAudio(
                f"{self._size} bytes or more in the members of {self._key!r}; limits.member_mb is "
                f"{self._max_bytes / 1e6:g}"
            )
        if self._fault:
            self._held = {rest: each.without_data() for rest, each in self._held.items()}

    def _decide(self, named: _Named) -> Iterator[Group]:
        """Find out where the keys of this run end, as soon as that is known."""
        if "." not in named.rest or named.rest.lower() == self._audio_member:
            self._state = _State.SHORT
        elif (
            self._num_audio > _UNDECIDED_AUDIO
            or self._size > _UNDECIDED_BYTES
            or len(self._held) >= _MOST_MEMBERS
        ):
            if self._has_long_keys():
                yield from self._cut()
            elif self._num_audio > 1:
                self._state = _State.AMBIGUOUS
                held, self._held = self._held, {}
                yield from map(self._rejected, held.values())
            else:
                self._state = _State.SHORT

    def _has_long_keys(self) -> bool:
        """Whether audio and another member share a stem that ends the keys of this run."""
        dotted = [named for named in self._held.values() if "." in named.rest]
        if self._fault or len(dotted) < 2 or self._audio_member in self._held:
            return False
        has_plain = len(dotted) < len(self._held)
        count = Counter(named.stem for named in dotted)
        return any(
            count[named.stem] > 1
            and self._is_audio(named)
            and (not has_plain or _is_decimal(self._key or "", named.stem))
            for named in dotted
        )

    def _cut(self) -> Iterator[Group]:
        """Yield the samples of long keys among the held members, and hold the last one."""
        held, self._held, self._state = self._held, {}, _State.LONG
        self._size = 0
        for named in held.values():
            yield from self.add(named)

    def _joins(self, stem: str) -> bool:
        """Whether a member belongs to the held ones, if keys are long."""
        if not self._held or stem == self._stem:
            return True
        short, long = sorted((stem, self._stem), key=len)
        before, after = short or self._key or "", long[len(short) + 1 :] if short else long
        return long.startswith(f"{short}." if short else "") and not _is_decimal(before, after)

    def _release(self) -> Group:
        """The sample of the held members."""
        held, self._held, self._size = list(self._held.values()), {}, 0
        fault, self._fault = self._fault, None
        skipped = len(self._stem) + 1 if self._stem else 0
        key = f"{self._key}.{self._stem}" if self._stem else self._key
        members = {named.rest[skipped:].lower(): named.member for named in held}
        self._stem = ""
        return Group(key, members, fault)

    def _rejected(self, named: _Named) -> Group:
        fault = NoAudio(
            f"too many audio members have the key {self._key!r}, because keys end at the first "
            "dot; rename the files, or put a .json or .txt of the same name after each"
        )
        return Group(self._key, {named.rest.lower(): named.without_data().member}, fault)

    def _is_audio(self, named: _Named) -> bool:
        return named.format in AUDIO_SUFFIXES or named.format == self._audio_member


def _is_decimal(before: str, after: str) -> bool:
    """Whether a dot between two parts of a name is a decimal point."""
    return before[-1:].isdigit() and after[:1].isdigit()
