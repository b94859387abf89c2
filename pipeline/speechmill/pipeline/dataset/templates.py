"""Documents of text and codes for a language model, and back.

    none          <|bos|> <|audio|> codes <|/audio|> <|eos|>
    before        <|bos|> <|text|> text <|audio|> codes <|/audio|> <|eos|>
    after         <|bos|> <|audio|> codes <|/audio|> <|text|> text <|eos|>
    interleaved   one document of all rows of a recording, in the order of time, with the text of
                  each before its codes

`before` is the order of speech synthesis, and `after` that of recognition. An utterance without
text has no part for it.

If the pattern gives rows of streams, every token of text and every special token is a row too: it
stands in the first stream, with `<|pad|>` in the others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from speechmill.pipeline.dataset.documents import Codes, Documents, Utterances
from speechmill.pipeline.dataset.pattern import Pattern
from speechmill.pipeline.dataset.patterns import pattern_from
from speechmill.pipeline.dataset.text_tokenizers import Bytes, TextTokenizer
from speechmill.pipeline.dataset.vocabulary import (
    AUDIO,
    BOS,
    END_OF_AUDIO,
    EOS,
    PAD,
    TEXT,
    IdKind,
    Vocabulary,
    vocabulary_from,
)
from speechmill.pipeline.errors import InputError, check_choice

Flags = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.int64]

TEXTS = ("none", "before", "after", "interleaved")
WITHOUT_TEXT = ("keep", "skip")

_VERSION = 1  # changes with the order of the parts of a document
_RECORDING = ("shard", "index", "channel")  # keys may come twice in a shard


@dataclass(frozen=True, slots=True)
class PatternEncoder:
    """Documents of a pattern alone: ids from 0, or rows of streams that each begin at 0."""

    pattern: Pattern

    @property
    def columns(self) -> tuple[str, ...]:
        return ()

    def encode(self, utterances: Utterances) -> Documents:
        return self.pattern.encode_batch(utterances.codes_NK, utterances.num_frames_B)

    def description(self) -> dict[str, Any]:
        return self.pattern.description()


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """Documents of codes with text; `make_template` makes the vocabulary too."""

    pattern: Pattern
    vocabulary: Vocabulary
    text: str = "none"
    tokenizer: TextTokenizer
    without_text: str = "keep"  # or skip: what becomes of rows without text

    def __post_init__(self) -> None:
        check_choice("text", self.text, TEXTS)
        check_choice("without_text", self.without_text, WITHOUT_TEXT)
        if self.text == "none" and self.without_text == "skip":
            raise InputError("text is none, so no row could stay; set without_text to keep")
        if self.text != "none" and self.vocabulary.text_size < self.tokenizer.num_ids:
            raise InputError(
                f"text_size is {self.vocabulary.text_size}, but the tokenizer has "
                f"{self.tokenizer.num_ids} ids; set at least that"
            )
        self._require_vocabulary()

    @property
    def columns(self) -> tuple[str, ...]:
        """What `encode` reads; a dataset without channels lacks `channel`."""
        if self.text == "none":
            return ()
        return ("text", "start", *_RECORDING) if self.text == "interleaved" else ("text",)

    def encode(self, utterances: Utterances) -> Documents:
        """A document for each row, in their order; of length 0 for a row that gives none.

        Interleaved, the first row of a recording has the document, and the others have length 0.
        """
        self._require_columns(utterances.table)
        texts = self._texts(utterances.table)
        has_text_B = texts.lengths_B > 0
        kept_B = has_text_B if self.without_text == "skip" else np.full(len(utterances), True)
        codes = self.pattern.encode_batch(utterances.codes_NK, utterances.num_frames_B)
        audio = Documents(codes.ids + self._first_ids, codes.lengths_B)
        audio = audio if kept_B.all() else _only(audio, kept_B)
        owner_B, order_B = self._recordings(utterances.table)
        opens_B, closes_B = _ends(owner_B, order_B[kept_B[order_B]])
        text_parts = [self._special(TEXT, has_text_B), self._in_rows(texts)]
        audio_parts = [self._special(AUDIO, kept_B), audio, self._special(END_OF_AUDIO, kept_B)]
        parts = [audio_parts, text_parts] if self.text == "after" else [text_parts, audio_parts]
        return _joined(
            [self._special(BOS, opens_B), *parts[0], *parts[1], self._special(EOS, closes_B)],
            owner_B,
            order_B,
        )

    def segments_of(self, ids: Codes) -> list[str | Codes]:
        """The texts and the codes_FK of documents, in their order.

        Raises `InputError` if the template does not give such ids.
        """
        ids = np.asarray(ids)
        first = self._first_stream(ids)
        meanings = self.vocabulary.meanings(first)
        (marks,) = np.nonzero(meanings.kinds == IdKind.SPECIAL)
        bounds = zip([-1, *marks.tolist()], [*marks.tolist(), len(ids)], strict=True)
        found: list[str | Codes] = []
        for mark, end in bounds:
            name = self.vocabulary.specials[meanings.codes[mark]] if mark >= 0 else "the start"
            body = first[mark + 1 : end]
            if name == AUDIO:
                found.append(self.pattern.decode(ids[mark + 1 : end] - self._first_ids))
            elif name == TEXT and (meanings.kinds[mark + 1 : end] == IdKind.TEXT).all():
                found.append(self.tokenizer.decode(body))
            elif len(body):
                raise InputError(f"id {body[0]} at {mark + 1} does not belong after {name}")
        return found

    def audio_codes_of(self, ids: Codes) -> list[Codes]:
        """The codes_FK of each utterance of documents."""
        return [segment for segment in self.segments_of(ids) if not isinstance(segment, str)]

    def texts_of(self, ids: Codes) -> list[str]:
        """The texts of documents."""
        return [segment for segment in self.segments_of(ids) if isinstance(segment, str)]

    def description(self) -> dict[str, Any]:
        """All that `template_from` needs but the file of the tokenizer, as plain JSON."""
        return {
            "version": _VERSION,
            "text": self.text,
            "without_text": self.without_text,
            "tokenizer": self.tokenizer.description(),
            "pattern": self.pattern.description(),
            "vocabulary": self.vocabulary.description(),
        }

    def _require_vocabulary(self) -> None:
        wanted, found = self.pattern, self.vocabulary
        if (wanted.kept_sizes, wanted.pads) != (found.codebook_sizes, found.pads):
            raise InputError(
                f"the vocabulary of codebooks {list(found.codebook_sizes)} (padding: {found.pads})"
                f" is not that of {wanted.name}, {list(wanted.kept_sizes)} ({wanted.pads}); take "
                "Vocabulary.of_pattern"
            )
        for name in (PAD, BOS, EOS, TEXT, AUDIO, END_OF_AUDIO):
            found.special(name)

    def _require_columns(self, table: pa.Table) -> None:
        for name in self.columns:
            if name not in table.column_names and name != "channel":
                raise InputError(
                    f"the rows have no column {name!r}, which text {self.text} needs; set none, or "
                    "see `speechmill verify`"
                )

    def _texts(self, table: pa.Table) -> Documents:
        if self.text == "none":
            return Documents(np.empty(0, np.int32), np.zeros(len(table), np.int64))
        return self.tokenizer.encode(table["text"].cast(pa.string()).combine_chunks())

    def _special(self, name: str, where_B: Flags) -> Documents:
        ids = np.full(np.count_nonzero(where_B), self.vocabulary.special(name), dtype=np.int32)
        return self._in_rows(Documents(ids, where_B.astype(np.int64)))

    @property
    def _first_ids(self) -> Codes:
        """What is added to the ids of the pattern."""
        if self.pattern.streams is None:
            return np.array(self.vocabulary.first_code, dtype=np.int32)
        return np.array(self.vocabulary.first_ids, dtype=np.int32)[list(self.pattern.streams)]

    def _in_rows(self, documents: Documents) -> Documents:
        """The ids as rows, if the pattern gives rows."""
        if self.pattern.streams is None:
            return documents
        shape = (len(documents.ids), len(self.pattern.streams))
        rows = np.full(shape, self.vocabulary.special(PAD), dtype=np.int32)
        rows[:, 0] = documents.ids
        return Documents(rows, documents.lengths_B)

    def _first_stream(self, ids: Codes) -> Codes:
        """The ids that say what each place is; undoes `_in_rows`."""
        streams = self.pattern.streams
        if ids.ndim != 1 + (streams is not None) or (streams and ids.shape[1] != len(streams)):
            wanted = "(ids,)" if streams is None else f"(rows, {len(streams)})"
            raise InputError(f"ids have the shape {ids.shape}; the template gives {wanted}")
        return ids if streams is None else ids[:, 0]

    def _recordings(self, table: pa.Table) -> tuple[Numbers, Numbers]:
        """The row that has the document of each row, and the order in which rows are written."""
        rows_B = np.arange(len(table))
        if self.text != "interleaved":
            return rows_B, rows_B
        names = [column for column in _RECORDING if column in table.column_names]
        places = [_places(table[name]) for name in names]
        _, first_rows, groups_B = np.unique(
            np.stack(places, axis=1), axis=0, return_index=True, return_inverse=True
        )
        owner_B = first_rows[groups_B.reshape(-1)]
        return owner_B, np.lexsort((table["start"].to_numpy(), owner_B))


def make_template(
    pattern: Pattern,
    text: str = "none",
    *,
    tokenizer: TextTokenizer | None = None,
    text_size: int | None = None,
    multiple: int = 1,
    without_text: str = "keep",
) -> Template:
    """A template with its vocabulary.

    `text_size` is by default that of the tokenizer, or 0 without text; a model with a larger
    embedding of text needs its size.
    """
    tokenizer = tokenizer or Bytes()
    if text_size is None:
        text_size = 0 if text == "none" else tokenizer.num_ids
    return Template(
        pattern=pattern,
        vocabulary=Vocabulary.of_pattern(pattern, text_size, multiple=multiple),
        text=text,
        tokenizer=tokenizer,
        without_text=without_text,
    )


def template_from(description: dict[str, Any], tokenizer: TextTokenizer | None = None) -> Template:
    """The template of a `description()`.

    A description never names a file, so a tokenizer other than bytes must be given.
    """
    tokenizer = tokenizer or Bytes()
    try:
        if description["version"] != _VERSION:
            raise InputError(
                f"the template is of version {description['version']!r}; this version of "
                f"speechmill knows {_VERSION}; install the one that wrote it"
            )
        if description["tokenizer"] != tokenizer.description():
            raise InputError(
                f"the template was made with the tokenizer {description['tokenizer']}, and this "
                f"one is {tokenizer.description()}; load the file that made it"
            )
        return Template(
            pattern=pattern_from(description["pattern"]),
            vocabulary=vocabulary_from(description["vocabulary"]),
            text=description["text"],
            tokenizer=tokenizer,
            without_text=description["without_text"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{description} is not the description of a template: {error!r}"
        ) from error


def _places(column: pa.ChunkedArray) -> Numbers:
    """A number for each value, equal where the values are; -1 for null."""
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    indices = column.unify_dictionaries().combine_chunks().indices
    return np.asarray(pc.fill_null(indices, -1).to_numpy(), dtype=np.int64)


def _ends(owner_B: Numbers, order: Numbers) -> tuple[Flags, Flags]:
    """Which rows begin and which end a document, if rows are written in this order."""
    opens_B, closes_B = np.full((2, len(owner_B)), False)
    changes = np.diff(owner_B[order]) != 0
    ones = [True] if len(order) else []
    opens_B[order] = np.concatenate([ones, changes])
    closes_B[order] = np.concatenate([changes, ones])
    return opens_B, closes_B


def _only(documents: Documents, kept_B: Flags) -> Documents:
    """The documents that are kept, and length 0 for the others."""
    ids = documents.ids[np.repeat(kept_B, documents.lengths_B)]
    return Documents(ids, documents.lengths_B * kept_B)


def _joined(parts: Sequence[Documents], owner_B: Numbers, order_B: Numbers) -> Documents:
    """The parts of each row one after the other, row after row."""
    lengths_B = np.sum([part.lengths_B for part in parts], axis=0)
    next_B = np.empty_like(lengths_B)  # where the next part of each row goes
    next_B[order_B] = np.cumsum(lengths_B[order_B]) - lengths_B[order_B]
    ids = np.empty((lengths_B.sum(), *parts[0].ids.shape[1:]), dtype=np.int32)
    for part in parts:
        shift_B = next_B - (np.cumsum(part.lengths_B) - part.lengths_B)
        ids[np.repeat(shift_B, part.lengths_B) + np.arange(len(part.ids))] = part.ids
        next_B += part.lengths_B
    documents_B = np.zeros_like(lengths_B)
    np.add.at(documents_B, owner_B, lengths_B)
    return Documents(ids, documents_B)
