"""Utterances without content, to ask an encoder how long its documents are."""

import pyarrow as pa

from speechmill.pipeline.dataset.documents import Encoder, Utterances, utterances_of
from speechmill.pipeline.tokenize.schema import token_schema


def ids_per_frame(encoder: Encoder, num_codebooks: int) -> int:
    """How many ids a further frame adds to a document.

    Raises `InputError` if the encoder does not fit this number of codebooks.
    """
    lengths = [
        int(encoder.encode(_blank(encoder.columns, frames, num_codebooks)).lengths_B[0])
        for frames in (1, 2)
    ]
    return lengths[1] - lengths[0]


def _blank(columns: tuple[str, ...], num_frames: int, num_codebooks: int) -> Utterances:
    """One utterance of code 0, with a text."""
    schema = token_schema((2,), version=2)
    texts = {name for name in columns if schema.field(name).type == pa.string()}
    values = {
        name: pa.array(["a" if name in texts else 0], schema.field(name).type) for name in columns
    }
    codes = pa.array([[0] * (num_frames * num_codebooks)], schema.field("codes").type)
    return utterances_of(pa.table({"codes": codes, **values}), num_codebooks)
