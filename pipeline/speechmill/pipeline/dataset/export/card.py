"""The card of a folder for `datasets.load_dataset` and the Hugging Face Hub."""

import json
from dataclasses import asdict
from typing import Any

import xxhash
import yaml

from speechmill.codecs import codec_card
from speechmill.codecs.errors import CodecError
from speechmill.pipeline.dataset.export.part import Files, Whole
from speechmill.pipeline.dataset.layout import GENERATED
from speechmill.pipeline.dataset.text_tokenizers import BYTES
from speechmill.pipeline.text import shown

_BODY = """\
# Speech tokens of {codec}

{documents:,} documents: {hours:,.2f} hours of speech, {frames:,} frames.

{facts}

The licence of the tokens is that of {origin}, which this card does not
know. Add `license` to the header before you publish them.

## Columns

{columns}

## Read them

```python
from datasets import load_dataset

rows = load_dataset("PATH", split="train")  # PATH: this folder
```

## Back to codes and audio

`export.json` says how codes became these ids. With Speechmill installed:

```python
import json
from pathlib import Path

import numpy as np
import torch
from speechmill.codecs import load_codec
from speechmill.pipeline.dataset.export.ids import ids_from{imports}

ids = ids_from(json.loads(Path("PATH/export.json").read_text()){tokenizer})
codes_FK = ids.codes_of({document})[0]
codec = load_codec({name!r})
assert codec.info.revision == {revision!r}, "give load_codec the checkpoint of the tokens"
codes_BKF = torch.from_numpy(codes_FK.T[None].astype(np.int64))
audio_BT = codec.decode(codes_BKF, torch.tensor([len(codes_FK)]))
```

## Where they come from

`shard` and `index` of a row say of which sample of which tar it was made. `export.json` has the
settings with which the audio was read and encoded, and the condition that chose the rows, if any.
"""

_ORIGINS = {
    False: "the speech that they were made of",
    True: "the language model that generated them",
}
_TOKENIZERS = "speechmill.pipeline.dataset.text_tokenizers"
_COLUMNS = {
    "key": "the key of the sample",
    "num_frames": "frames of the codec",
    "start, end": "of the utterance in its recording, in s",
    "sample_rate, num_channels": "of the recording",
    "duration": "of the utterance, in s",
    "audio_xxh3": "a hash of the audio that was encoded",
    "text": "what is said, or null",
    "metadata": "the JSON of the sample, or null",
    "shard, index": "the tar of the sample, and its position there",
    "channel": "of the recording, if each channel was encoded",
}


def describe(whole: Whole) -> Files:
    """`README.md`, with the facts about the codec in its YAML header."""
    facts = _facts(whole)
    header = {
        "pretty_name": f"Speech tokens of {facts['codec']}",
        "tags": ["speech", "audio-tokens", "speechmill"],
        "configs": [
            {
                "config_name": "default",
                "description": _digest(whole),
                "data_files": [{"split": "train", "path": "data/*.parquet"}],
            }
        ],
        "speechmill": facts,
    }
    text = f"---\n{yaml.safe_dump(header, sort_keys=False)}---\n\n{_body(whole, facts)}"
    yield "README.md", text.encode()


def _digest(whole: Whole) -> str:
    """Changes with the content of the export.

    `datasets` caches a local folder by its name and its header, and without this would give the
    rows of another folder of that name, or of this one before it was continued.
    """
    content = [whole.description, *(asdict(record) for record in whole.records)]
    return f"export {xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())}"


def _facts(whole: Whole) -> dict[str, Any]:
    codec, identity = whole.codec, whole.description["identity"]
    return {
        "codec": codec.name,
        "revision": codec.revision,
        "licence_of_weights": _licence(codec.name),
        "trained": identity["trained"],
        "precision": identity["precision"],
        "input_sample_rate": codec.sample_rate,
        "output_sample_rate": codec.output_sample_rate,
        "frame_rate": codec.frame_rate,
        "codebook_sizes": list(codec.codebook_sizes),
        "num_codebooks": whole.description["num_codebooks"],
        "num_ids": whole.description["ids"]["num_ids"],
        "where": whole.description["where"],
    }


def _body(whole: Whole, facts: dict[str, Any]) -> str:
    frames = sum(record.frames for record in whole.records)
    template = whole.description["ids"].get("template")
    is_bytes = template is None or template["tokenizer"]["kind"] == BYTES
    return _BODY.format(
        codec=_code(facts["codec"]),
        documents=sum(record.documents for record in whole.records),
        hours=frames / whole.codec.frame_rate / 3600,
        frames=frames,
        facts=_table("fact", "value", {name: _code(value) for name, value in facts.items()}),
        origin=_ORIGINS[GENERATED in whole.description["identity"]],
        columns=_table("column", "content", {**_COLUMNS, **_ids_column(whole.streams)}),
        imports="" if is_bytes else f"\nfrom {_TOKENIZERS} import load_tokenizer",
        tokenizer="" if is_bytes else ', load_tokenizer("tokenizer.json")',
        document=_document(whole.streams),
        name=facts["codec"],
        revision=facts["revision"],
    )


def _ids_column(streams: int | None) -> dict[str, str]:
    if streams is None:
        return {"input_ids": "the ids of the document"}
    names = "codes_0" if streams == 1 else f"codes_0 … codes_{streams - 1}"
    return {names: "the ids of each stream"}


def _document(streams: int | None) -> str:
    """The document of the first row, in Python."""
    if streams is None:
        return 'rows[0]["input_ids"]'
    return f'np.stack([rows[0][f"codes_{{k}}"] for k in range({streams})], axis=1)'


def _licence(codec: str) -> str:
    try:
        return codec_card(codec).licence
    except CodecError:  # a codec that is not installed here
        return "unknown"


def _table(first: str, second: str, rows: dict[str, str]) -> str:
    lines = (f"| `{name}` | {value} |" for name, value in rows.items())
    return "\n".join([f"| {first} | {second} |", "|---|---|", *lines])


def _code(value: object) -> str:
    """A value of a stranger as code, so that it is neither markup nor a second cell."""
    return f"`{shown(value).replace('`', chr(39)).replace('|', '¦')}`"
