"""Text to ids and back: the bytes of UTF-8, or a `tokenizer.json` of the `tokenizers` library."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from speechmill.pipeline.dataset.documents import Codes, Documents
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.imports import load_extra

BYTES = "bytes"


class TextTokenizer(Protocol):
    """What a template needs of a tokenizer; it adds no special tokens."""

    @property
    def num_ids(self) -> int:
        """All ids are below this."""
        ...

    def encode(self, texts_B: pa.StringArray) -> Documents:
        """The ids of each text; none of null."""
        ...

    def decode(self, ids: Codes) -> str:
        """Undo `encode` for one text."""
        ...

    def description(self) -> dict[str, Any]:
        """Facts that tell this tokenizer from others, as plain JSON."""
        ...


@dataclass(frozen=True, slots=True)
class Bytes:
    """The bytes of the text in UTF-8."""

    num_ids: int = 256

    def encode(self, texts_B: pa.StringArray) -> Documents:
        texts = [(text or "").encode() for text in texts_B.to_pylist()]
        lengths_B = np.array([len(text) for text in texts], dtype=np.int64)
        return Documents(np.frombuffer(b"".join(texts), np.uint8).astype(np.int32), lengths_B)

    def decode(self, ids: Codes) -> str:
        """A model may generate ids that are not UTF-8, or not bytes; they become U+FFFD."""
        ids = np.asarray(ids, dtype=np.int64)
        is_byte = (ids >= 0) & (ids < self.num_ids)
        return bytes(np.where(is_byte, ids, 0xFF).astype(np.uint8)).decode(errors="replace")

    def description(self) -> dict[str, Any]:
        return {"kind": BYTES}


class JsonTokenizer:
    """A tokenizer of the `tokenizers` library, with neither its padding nor its truncation.

    A text that spells a special token, as `<|endoftext|>`, has the ids of its characters: a text
    of a stranger must not end a document.
    """

    def __init__(self, path: str | Path) -> None:
        tokenizers = load_extra("tokenizers", "lm")
        try:
            data = Path(path).read_bytes()
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except Exception as error:  # the library raises this very class
            reason = " ".join(str(error).split())
            raise InputError(
                f"tokenizer {str(path)!r} cannot be read ({reason}); give the path of a "
                f"tokenizer.json, or {BYTES!r}"
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True  # as text
        self._path = str(path)
        self.num_ids = max(self._tokenizer.get_vocab().values(), default=-1) + 1
        self._digest = hashlib.sha256(data).hexdigest()[:16]

    def encode(self, texts_B: pa.StringArray) -> Documents:
        texts = [text or "" for text in texts_B.to_pylist()]
        try:
            found = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except Exception as error:  # the library raises this very class
            raise InputError(
                f"tokenizer {self._path!r} cannot encode a text ({error}); take one that knows all "
                f"characters, or {BYTES!r}"
            ) from error
        ids = [np.array(each.ids, dtype=np.int32) for each in found]
        lengths_B = np.array([len(each) for each in ids], dtype=np.int64)
        return Documents(np.concatenate([np.empty(0, np.int32), *ids]), lengths_B)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """In a spawned worker; the library's own pickle forgets one setting."""
        self.__dict__.update(state)
        self._tokenizer.encode_special_tokens = True

    def decode(self, ids: Codes) -> str:
        return str(self._tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    def description(self) -> dict[str, Any]:
        return {"kind": "tokenizer.json", "digest": self._digest}


def load_tokenizer(name: str) -> TextTokenizer:
    """`bytes`, or the tokenizer at a path."""
    return Bytes() if name == BYTES else JsonTokenizer(name)
