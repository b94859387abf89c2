"""What the ids of an export are: codes in a pattern, or documents of text and codes."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from speechmill.pipeline.dataset.documents import Codes, Documents, Encoder, Utterances
from speechmill.pipeline.dataset.pattern import Pattern, is_int
from speechmill.pipeline.dataset.patterns import pattern_from
from speechmill.pipeline.dataset.templates import Template, template_from
from speechmill.pipeline.dataset.text_tokenizers import TextTokenizer
from speechmill.pipeline.dataset.vocabulary import Vocabulary
from speechmill.pipeline.errors import InputError


class Ids(Encoder, Protocol):
    """An encoder that can be undone from its description."""

    @property
    def num_ids(self) -> int:
        """All ids are below this."""
        ...

    @property
    def streams(self) -> tuple[int, ...] | None:
        """The codebook of each column of a document; None if documents are sequences of ids."""
        ...

    @property
    def by_frame(self) -> bool:
        """Whether a document has an id, or a row of ids, for each frame."""
        ...

    def num_frames(self, documents: Documents) -> int:
        """The frames of all documents together."""
        ...

    def codes_of(self, document: Codes) -> list[Codes]:
        """The codes_FK of each utterance of a document."""
        ...

    def description(self) -> dict[str, Any]:
        """All that `ids_from` needs but the file of the tokenizer, as plain JSON."""
        ...


@dataclass(frozen=True, slots=True)
class PatternIds:
    """The codes of a pattern; in a sequence, ids count from `first_id`."""

    pattern: Pattern
    first_id: int = 0

    def __post_init__(self) -> None:
        if not is_int(self.first_id, 0):
            raise InputError(f"first-id is {self.first_id!r}; give a number from 0 up")
        if self.first_id and self.streams is not None:
            raise InputError(
                f"first-id is {self.first_id}, but the ids of each stream of {self.pattern.name} "
                "count from 0; drop it, or take the pattern flatten"
            )
        self._vocabulary()

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    @property
    def num_ids(self) -> int:
        return self.first_id + self.pattern.num_ids

    @property
    def streams(self) -> tuple[int, ...] | None:
        return self.pattern.streams

    @property
    def by_frame(self) -> bool:
        num_frames = np.array([1, 1000])
        return bool((self.pattern.lengths(num_frames) == num_frames).all())

    def encode(self, utterances: Utterances) -> Documents:
        found = self.pattern.encode_batch(utterances.codes_NK, utterances.num_frames_B)
        ids = found.ids + np.int32(self.first_id) if self.first_id else found.ids
        return Documents(ids, found.lengths_B)

    def num_frames(self, documents: Documents) -> int:
        return _codes_of_first_book(documents, self.streams, self.first_id, self.pattern.sizes[0])

    def codes_of(self, document: Codes) -> list[Codes]:
        return [self.pattern.decode(np.asarray(document).astype(np.int64) - self.first_id)]

    def description(self) -> dict[str, Any]:
        facts = {"pattern": self.pattern.description(), "first_id": self.first_id}
        return facts | {"vocabulary": self._vocabulary(), "num_ids": self.num_ids}

    def _vocabulary(self) -> dict[str, Any] | None:
        """Which ids of a sequence are of which codebook, for others than us."""
        if self.streams is not None:
            return None
        sizes = self.pattern.kept_sizes
        return Vocabulary(
            text_size=self.first_id, codebook_sizes=sizes, pads=self.pattern.pads, specials=()
        ).description()


@dataclass(frozen=True, slots=True)
class TemplateIds:
    """Documents of text and codes; a row may have none."""

    template: Template

    by_frame = False

    @property
    def columns(self) -> tuple[str, ...]:
        return self.template.columns

    @property
    def num_ids(self) -> int:
        return self.template.vocabulary.num_ids

    @property
    def streams(self) -> tuple[int, ...] | None:
        return self.template.pattern.streams

    def encode(self, utterances: Utterances) -> Documents:
        return self.template.encode(utterances)

    def num_frames(self, documents: Documents) -> int:
        codes = self.template.vocabulary.codes(0)
        return _codes_of_first_book(documents, self.streams, codes.start, len(codes))

    def codes_of(self, document: Codes) -> list[Codes]:
        return self.template.audio_codes_of(document)

    def description(self) -> dict[str, Any]:
        return {"template": self.template.description(), "num_ids": self.num_ids}


def ids_from(description: dict[str, Any], tokenizer: TextTokenizer | None = None) -> Ids:
    """The ids of `export.json`; raises `InputError` if it is damaged.

    A template that was made with a tokenizer other than bytes needs it.
    """
    try:
        found = description["ids"]
        if "template" in found:
            return TemplateIds(template_from(found["template"], tokenizer))
        return PatternIds(pattern_from(found["pattern"]), found["first_id"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{description} is not that of an export: {error!r}") from error


def _codes_of_first_book(
    documents: Documents, streams: tuple[int, ...] | None, first_id: int, size: int
) -> int:
    """The number of codes of codebook 0: every frame has one in every pattern."""
    ids = documents.ids
    if streams is not None:
        ids = ids[:, [book == 0 for book in streams]]
    return int(np.count_nonzero((ids >= first_id) & (ids < first_id + size)))
