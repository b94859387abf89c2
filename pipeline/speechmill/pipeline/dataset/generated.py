"""Codes that a language model generated, as a token dataset: `speechmill decode` makes it audio."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from speechmill.codecs.api import CodecInfo
from speechmill.pipeline.dataset.documents import Codes
from speechmill.pipeline.dataset.layout import (
    BATCH,
    COMPACTED,
    GENERATED,
    TokenDataset,
    codec_of,
    readable,
)
from speechmill.pipeline.errors import EmptyAudio, InputError, RejectStage
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.shards.tar_reader import Reject
from speechmill.pipeline.text import clean
from speechmill.pipeline.tokenize import canary
from speechmill.pipeline.tokenize.batching import ShardEnd
from speechmill.pipeline.tokenize.schema import ROW_SCHEMA, token_schema, with_codes
from speechmill.pipeline.tokenize.writer import PartWriter

_OF_TOKENIZE = (BATCH, COMPACTED, canary.KEY)  # what an identity says of how codes were computed


@dataclass(frozen=True, slots=True)
class Generated:
    """The codes of one utterance that no audio gave."""

    key: str
    codes_FK: Codes
    text: str | None = None
    metadata: str | None = None  # JSON


def require_empty(target: TokenDataset) -> None:
    """Raise `InputError` if a folder holds anything."""
    if target.storage.list_files(target.root):
        raise InputError(f"{target.root} is not empty; set another output")


def write_generated(
    source: TokenDataset, target: TokenDataset, utterances: Sequence[Generated]
) -> None:
    """Write utterances as a dataset of the codec of `source`; those without a frame are rejects.

    Raises `InputError` if `target` holds anything, if there is no utterance, if two have one key,
    or if codes are not of the codec.
    """
    require_empty(target)
    identity = source.require_identity()
    codec = _codec_of(source)
    for each in utterances:
        _require_texts(each)
        _require_codes(each, codec)
    _require_keys(utterances)
    kept = {name: value for name, value in identity.items() if name not in _OF_TOKENIZE}
    target.claim({**kept, "schema_version": 1, GENERATED: True})
    shard = Shard(url=f"{target.root}/{GENERATED}.tar", size=0, etag="")
    provenance = {"precision": identity["precision"], GENERATED: True}
    rows = {place: each for place, each in enumerate(utterances) if len(each.codes_FK)}
    empty = [_empty(each, place) for place, each in enumerate(utterances) if place not in rows]
    with PartWriter(target.root, shard, target.storage, codec, provenance) as writer:
        if rows:
            writer.add(_rows(rows, codec, shard))
        writer.close(ShardEnd(rejects=empty))


def _empty(utterance: Generated, place: int) -> Reject:
    """Rows have at least one frame, or no codec could decode them."""
    error, message = EmptyAudio.__name__, "the model generated no frame"
    return Reject(utterance.key, place, "", RejectStage.DECODE, error, message, 0)


def _codec_of(source: TokenDataset) -> CodecInfo:
    """The codec, as the first part states it."""
    names = sorted(source.parts())
    if not names:
        raise InputError(f"{source.root} has no part, so nothing says which codec this is")
    [footer] = source.footers(names[:1])
    with readable(source.part_url(names[0])):
        return codec_of(footer)


def _require_keys(utterances: Sequence[Generated]) -> None:
    if not utterances:
        raise InputError("there are no utterances to write; give at least one")
    counts = Counter(each.key for each in utterances)
    key, count = counts.most_common(1)[0]
    if count > 1:  # (key, start) is unique in a dataset, and all begin at 0
        raise InputError(f"{count} utterances have the key {key!r}; give each its own")


def _require_texts(utterance: Generated) -> None:
    key, text, metadata = utterance.key, utterance.text, utterance.metadata
    for name, value in (("key", key), ("text", text), ("metadata", metadata)):
        if value is None and name != "key":
            continue
        if not isinstance(value, str) or value != clean(value):
            raise InputError(f"the {name} of {key!r} is {value!r}; give text that UTF-8 can hold")
    try:
        if metadata is not None:
            json.loads(metadata)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the metadata of {key!r} is {metadata!r}; give JSON") from error


def _require_codes(utterance: Generated, codec: CodecInfo) -> None:
    codes_FK, sizes = np.asarray(utterance.codes_FK), np.array(codec.codebook_sizes)
    if codes_FK.ndim != 2 or codes_FK.shape[1] != len(sizes) or codes_FK.dtype.kind not in "iu":
        raise InputError(
            f"the codes of {utterance.key!r} are {codes_FK.dtype} of shape {codes_FK.shape}; give "
            f"whole numbers of shape (frames, {len(sizes)})"
        )
    if ((codes_FK < 0) | (codes_FK >= sizes)).any():
        raise InputError(f"the codes of {utterance.key!r} are not in the codebooks of {codec.name}")


def _rows(rows_by_place: Mapping[int, Generated], codec: CodecInfo, shard: Shard) -> pa.RecordBatch:
    utterances = list(rows_by_place.values())
    num_frames_B = np.array([len(each.codes_FK) for each in utterances], dtype=np.int64)
    codes_BFK = np.zeros((len(utterances), max(num_frames_B, default=0), codec.num_codebooks), int)
    for place, each in zip(codes_BFK, utterances, strict=True):
        place[: len(each.codes_FK)] = each.codes_FK
    seconds_B = num_frames_B / codec.frame_rate
    columns = {
        "key": [each.key for each in utterances],
        "start": np.zeros(len(utterances)),
        "end": seconds_B,
        "sample_rate": np.full(len(utterances), codec.output_sample_rate),
        "num_channels": np.ones(len(utterances)),
        "duration": seconds_B,
        "audio_xxh3": np.zeros(len(utterances)),  # there is no audio
        "text": [each.text for each in utterances],
        "metadata": [each.metadata for each in utterances],
        "shard": [shard.url] * len(utterances),
        "index": list(rows_by_place),
        "channel": [None] * len(utterances),
    }
    arrays = [pa.array(columns[field.name]).cast(field.type) for field in ROW_SCHEMA]
    rows = pa.RecordBatch.from_arrays(arrays, schema=ROW_SCHEMA)
    first_frame_B = np.zeros_like(num_frames_B)
    return with_codes(
        rows, codes_BFK, first_frame_B, num_frames_B, token_schema(codec.codebook_sizes)
    )
