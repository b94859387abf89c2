"""The ids of a language model of text and speech: which range means what.

[0, text_size)            the tokens of the text
then                      special tokens, in the order of `SPECIALS`
then                      a range for each codebook: its codes, and one more id for padding if
                          the pattern has padding
up to `num_ids`           unused ids, so that the number is a multiple that tensor cores like
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from speechmill.pipeline.dataset.documents import Codes
from speechmill.pipeline.dataset.pattern import Pattern, first_ids, is_int, require_sizes
from speechmill.pipeline.errors import InputError

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
TEXT, AUDIO, END_OF_AUDIO = "<|text|>", "<|audio|>", "<|/audio|>"
SPECIALS = (PAD, BOS, EOS, TEXT, AUDIO, END_OF_AUDIO)

_VERSION = 1  # changes with the order of the ranges


class IdKind(IntEnum):
    """What an id is."""

    TEXT = 0
    SPECIAL = 1
    CODE = 2
    PADDING = 3  # of a codebook
    UNUSED = 4


class Meanings(NamedTuple):
    """What some ids mean, one entry for each."""

    kinds: npt.NDArray[np.int64]  # of `IdKind`
    codebooks: npt.NDArray[np.int64]  # -1 if an id is of no codebook
    codes: npt.NDArray[np.int64]  # counted from the first id of its range


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """The ranges of ids of one model."""

    text_size: int
    codebook_sizes: tuple[int, ...]
    pads: bool = False  # each codebook has an id for padding
    specials: tuple[str, ...] = SPECIALS
    multiple: int = 1  # of which `num_ids` is one

    def __post_init__(self) -> None:
        require_sizes(self.codebook_sizes)
        if not isinstance(self.pads, bool):
            raise InputError(f"pads is {self.pads!r}; give true or false")
        for name, least in (("text_size", 0), ("multiple", 1)):
            if not is_int(value := getattr(self, name), least):
                raise InputError(f"{name} is {value!r}; give a number from {least} up")
        if len(set(self.specials)) < len(self.specials):
            raise InputError(f"the special tokens {list(self.specials)} are not distinct")
        if self.num_ids > 2**31:
            raise InputError(f"a vocabulary of {self.num_ids} ids needs over 31 bits")

    @classmethod
    def of_pattern(cls, pattern: Pattern, text_size: int, *, multiple: int = 1) -> "Vocabulary":
        """The vocabulary for the ids of a pattern."""
        sizes = pattern.kept_sizes
        return cls(text_size=text_size, codebook_sizes=sizes, pads=pattern.pads, multiple=multiple)

    @property
    def first_code(self) -> int:
        """What is added to the ids of a pattern: the id of code 0 of codebook 0."""
        return self.text_size + len(self.specials)

    @property
    def first_ids(self) -> list[int]:
        """The id of code 0 of each codebook."""
        return [self.first_code + first for first in self._firsts[:-1]]

    @property
    def num_ids(self) -> int:
        """The size of the embedding of a model."""
        used = self.first_code + self._firsts[-1]
        return -(-used // self.multiple) * self.multiple

    def special(self, name: str) -> int:
        """The id of a special token."""
        if name not in self.specials:
            raise InputError(f"no special token {name!r}; there are {', '.join(self.specials)}")
        return self.text_size + self.specials.index(name)

    def codes(self, codebook: int) -> range:
        """The ids of the codes of a codebook, without its padding."""
        first = self.first_ids[codebook]
        return range(first, first + self.codebook_sizes[codebook])

    def meanings(self, ids: Codes) -> Meanings:
        """The kind, the codebook and the code of each id, in the shape of `ids`."""
        ids = np.asarray(ids)
        if ids.dtype.kind not in "iu":
            raise InputError(f"ids are {ids.dtype}; give whole numbers")
        ids = ids.astype(np.int64)
        wrong = ids[(ids < 0) | (ids >= self.num_ids)]
        if len(wrong):
            raise InputError(f"id {wrong[0]} is not in the vocabulary, 0..{self.num_ids - 1}")
        starts, kinds, books = (np.array(column) for column in zip(*self._ranges(), strict=True))
        # Of ranges that start at the same id, all but the last are empty.
        found = np.searchsorted(starts, ids, side="right") - 1
        return Meanings(kinds[found], books[found], ids - starts[found])

    def description(self) -> dict[str, Any]:
        """All that `vocabulary_from` needs, as plain JSON, and what others read ids with."""
        return {
            "version": _VERSION,
            "text_size": self.text_size,
            "specials": {name: self.special(name) for name in self.specials},
            "codebook_sizes": list(self.codebook_sizes),
            "pads": self.pads,
            "multiple": self.multiple,
            "first_ids": self.first_ids,
            "num_ids": self.num_ids,
        }

    def _ranges(self) -> Iterator[tuple[int, IdKind, int]]:
        """The first id of each range, with its kind and codebook."""
        yield 0, IdKind.TEXT, -1
        yield self.text_size, IdKind.SPECIAL, -1
        for book, size in enumerate(self.codebook_sizes):
            yield self.first_ids[book], IdKind.CODE, book
            if self.pads:
                yield self.first_ids[book] + size, IdKind.PADDING, book
        yield self.first_code + self._firsts[-1], IdKind.UNUSED, -1

    @property
    def _firsts(self) -> list[int]:
        return first_ids(self.codebook_sizes, pads=self.pads)


def vocabulary_from(description: dict[str, Any]) -> Vocabulary:
    """The vocabulary of a `description()`; raises `InputError` if it is damaged."""
    try:
        if description["version"] != _VERSION:
            raise InputError(
                f"the vocabulary is of version {description['version']!r}; this version of "
                f"speechmill knows {_VERSION}; install the one that wrote it"
            )
        found = Vocabulary(
            text_size=description["text_size"],
            codebook_sizes=tuple(description["codebook_sizes"]),
            pads=description["pads"],
            specials=tuple(description["specials"]),
            multiple=description["multiple"],
        )
        if found.description() != description:
            raise ValueError("its ids do not follow from its sizes")
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{description} is not the description of a vocabulary: {error!r}"
        ) from error
