"""What the parts of a dataset hold, from their footers: of all of them, or of a random sample."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any

from speechmill.jobs.report.wording import limited
from speechmill.pipeline.dataset.checks import check_identity
from speechmill.pipeline.dataset.layout import DAMAGE, FOOTER_BYTES, TokenDataset
from speechmill.pipeline.errors import StorageError
from speechmill.pipeline.storage import join
from speechmill.pipeline.tokenize.writer import read_footer

MOST_FOOTERS = 4096  # of a larger dataset a sample of them is read
_LARGEST_FOOTER = 2**26  # bytes
_PARALLEL_READS = 32
_MOST_REASONS = 1000
_HUGE = 2**50


@dataclass(frozen=True, slots=True)
class FoundPart:
    """A file of `tokens/` or `rejects/`."""

    name: str  # without the suffix
    url: str
    size: int  # bytes


@dataclass(frozen=True, slots=True)
class PartCounts:
    """The footer of one part."""

    rows: float
    frames: float
    audio: float  # s
    rejects: dict[str, int]  # by reason
    device: str
    version: str  # of speechmill


@dataclass(slots=True)
class Contents:
    """The counts of a dataset; estimated if not all footers were read."""

    parts: int
    counted: int = 0  # parts whose footer was read
    rows: float = 0
    frames: float = 0
    audio: float = 0.0  # s
    error: float = 0.0  # standard error of `audio`, as a share of it
    rejects: Counter[str] = field(default_factory=Counter)  # by reason
    parts_of_reason: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    devices: Counter[str] = field(default_factory=Counter)  # parts by kind of device
    versions: Counter[str] = field(default_factory=Counter)  # parts by version of speechmill

    def add(self, name: str, part: PartCounts) -> None:
        self.counted += 1
        self.rows += part.rows
        self.frames += part.frames
        self.audio += part.audio
        self.devices[part.device] += 1
        self.versions[part.version] += 1
        for reason, count in part.rejects.items():
            known = reason in self.rejects or len(self.rejects) < _MOST_REASONS
            self.rejects[reason if known else "other reasons"] += count
            if known:
                self.parts_of_reason[reason].append(name)

    @property
    def exact(self) -> bool:
        return self.counted == self.parts


def list_parts(dataset: TokenDataset, folder: str) -> list[FoundPart]:
    """The committed files of a folder, sorted by name, by one listing."""
    below = len(join(dataset.storage.absolute(dataset.root), folder)) + 1
    found = []
    for info in dataset.storage.list_files(join(dataset.root, folder)):
        name, dot, suffix = info.url[below:].rpartition(".")
        if (
            f"{dot}{suffix}" == dataset.suffix
            and "/" not in name
            and name[:1] not in ("", ".", "_")
        ):
            found.append(FoundPart(name, info.url, info.size))
    return found


def sampled(items: Sequence[Any], most: int, seed: int, what: str) -> list[Any]:
    """All items, or a random choice of `most`, in their order; `what` makes choices differ."""
    if len(items) <= most:
        return list(items)
    picked = random.Random(f"{seed} {what}").sample(range(len(items)), most)
    return [items[place] for place in sorted(picked)]


def read_contents(
    dataset: TokenDataset,
    identity: dict[str, Any],
    parts: list[FoundPart],
    seed: int,
    faults: list[str],
) -> Contents:
    """Count rows, audio and rejects; a part that cannot be read, or is of another dataset, is a
    line in `faults` and counts as the others do on average.
    """
    chosen = sampled(parts, MOST_FOOTERS, seed, "footers")
    with ThreadPoolExecutor(_PARALLEL_READS) as threads:
        counts = list(threads.map(lambda part: _counts_of(dataset, identity, part), chosen))
    found = Contents(len(parts))
    for part, own in zip(chosen, counts, strict=True):
        if isinstance(own, PartCounts):
            found.add(part.name, own)
        else:
            faults.append(f"tokens/{part.name}{dataset.suffix} is not counted: {own}")
    return _scaled(found, [own.audio for own in counts if isinstance(own, PartCounts)])


def _counts_of(
    dataset: TokenDataset, identity: dict[str, Any], part: FoundPart
) -> PartCounts | str:
    """Return what the footer of a part counts, or why it does not count."""
    try:
        footer = read_footer(_end_of(dataset, part))
        for _, message in check_identity(footer, identity):
            return limited(message, 300)
        return PartCounts(
            rows=_count(footer["rows"]),
            frames=_count(footer["frames"]),
            audio=_count(footer["audio_seconds"]),
            rejects={limited(name, 100): int(_count(n)) for name, n in _rejects(footer)},
            device=limited(footer.get("device", "unknown"), 100),
            version=limited(footer.get("libraries", {}).get("speechmill", "unknown"), 30),
        )
    except (StorageError, OSError, *DAMAGE) as error:
        return limited(f"{type(error).__name__}: {error}", 300)


def _rejects(footer: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    found = dict(footer["rejects"])
    if len(found) > _MOST_REASONS:
        raise ValueError(f"{len(found)} reasons of rejects")
    return found.items()


def _end_of(dataset: TokenDataset, part: FoundPart) -> bytes:
    """Return the end of a Parquet file, from its footer on."""
    tail = dataset.storage.read_tail(part.url, FOOTER_BYTES)
    needed = int.from_bytes(tail[-8:-4], "little") + 8
    if needed > min(part.size, _LARGEST_FOOTER):
        raise ValueError(f"it claims a footer of {needed} bytes")
    return tail if needed <= len(tail) else dataset.storage.read_tail(part.url, needed)


def _count(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _HUGE:
        raise ValueError(f"its footer counts {str(value)[:40]}")
    return value


def _scaled(found: Contents, lengths: list[float]) -> Contents:
    """Let the parts that were read stand for all of them."""
    if found.exact or not found.counted:
        return found
    factor = found.parts / found.counted
    found.rows, found.frames = found.rows * factor, found.frames * factor
    found.audio *= factor
    found.rejects = Counter({r: round(n * factor) for r, n in found.rejects.items()})
    if len(lengths) > 1 and fmean(lengths):
        unread = 1 - found.counted / found.parts
        found.error = stdev(lengths) / fmean(lengths) * (unread / len(lengths)) ** 0.5
    return found
