"""Write the pages of this folder from the code: `python docs/reference/generate.py`.

A test fails if a page differs from the code.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from inspect import getdoc, getsourcefile
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import omegaconf
import pyarrow as pa

from speechmill.codecs import codec_info
from speechmill.codecs import errors as codec_errors
from speechmill.jobs import schemas
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.kmeans import FitConfig
from speechmill.pipeline import errors as pipeline_errors
from speechmill.pipeline import metrics
from speechmill.pipeline.dataset.row_groups import INDEX_SCHEMA
from speechmill.pipeline.tokenize.schema import SCHEMA_VERSIONS, reject_schema, token_schema

FOLDER = Path(__file__).parent
COMMANDS: dict[str, type] = {
    "tokenize": schemas.TokenizeConfig,
    "enhance": schemas.EnhanceConfig,
    "train": TrainConfig,
    "fit-kmeans": FitConfig,
    "evaluate": schemas.EvaluateConfig,
    "pack": schemas.PackConfig,
}
NOTICE = (
    "<!-- Written from the code by docs/reference/generate.py; edit the code, not this page. -->"
)
CONFIGURATION = """# Configuration keys

`speechmill <command> CONFIG.yaml [key=value ...]`: the YAML file holds these keys, and the command
line overrides them. An unknown key is an error that names the nearest valid one. `plan` takes the
keys of `tokenize`; `pack` takes its keys on the command line only. The commands over a dataset take
the keys of `tokenize` too: those of the store, and those that change the settings that made the
dataset.

A relative path starts at the working directory of the command. `<name>` stands for a name of your
own."""
KEYS = "| key | type | default | meaning |\n|---|---|---|---|"
COLUMNS = """# Columns

## tokens/*.parquet

One row per utterance, sorted by `index` and `start`. All rows of a segmented recording have its
`key`; (`key`, `start`) is unique.

{tokens}

`codes` is uint32 if a codebook has more than 65,536 codes.

## rejects/*.parquet

One row per sample that could not be tokenized or was dropped, or per segment that a filter rejected
or that was dropped.

{rejects}

## index.parquet

Of a [compacted dataset](../guide/compact.md): one row per row group of `tokens/*.parquet`, sorted
by `part` and `row_group`.

{index}"""
TOKEN_COLUMNS = {
    "key": "the sample's key: its path in the tar, up to the first dot of the file name, or up to "
    "the last one if audio and another file share the longer name",
    "codes": "frame-major: frame 0 codebooks 0 to K-1, then frame 1, …; no delays, no offsets",
    "num_frames": "frames of the row",
    "num_codebooks": "codebooks of each frame, K",
    "start": "s from the start of the source recording",
    "end": "s from the start of the source recording",
    "sample_rate": "Hz, of the source",
    "num_channels": "of the source",
    "duration": "s, `end` minus `start`",
    "audio_xxh3": "XXH3 hash of the encoded audio member; duplicates have the same",
    "text": "the `.txt` member, or `text` of the JSON; of a segment, its entry in a list `text`",
    "metadata": "the sample's JSON as UTF-8, else unchanged; all rows of a recording share it",
    "shard": "URL of the tar",
    "index": "position of the sample in the tar, from 0",
    "channel": "of the source, from 0; null if the source has only one. Only in datasets with "
    "`audio.channels: each`, whose `schema_version` is 2",
}
REJECT_COLUMNS = {
    "key": "the sample's key; of a dropped sample `sha256:` and the SHA-256 of its key",
    "shard": "URL of the tar",
    "index": "position of the sample in the tar, from 0",
    "member": "name of the member at fault; empty for a dropped sample",
    "stage": "where it failed: " + ", ".join(f"`{stage}`" for stage in pipeline_errors.RejectStage),
    "error": "name of the [error](errors.md)",
    "message": "what is wrong, and the values found",
    "num_bytes": "size of the member; 0 for a dropped sample",
    "start": "s, of a rejected segment; null if the whole sample is rejected",
    "end": "s, of a rejected segment; null if the whole sample is rejected",
    "channel": "of the source; null if all are rejected. Only with `audio.channels: each`",
}
INDEX_COLUMNS = {
    "part": "name of the file below `tokens/`, without `.parquet`",
    "row_group": "number of the row group in the file, from 0",
    "rows": "utterances of the row group",
    "frames": "frames of all of them",
    "audio_seconds": "s, `duration` of all of them",
}
ERRORS = """# Errors

The column `error` of `rejects/` and the records in `failed/` hold these names. Exit codes: 0 all
done, 1 some shards failed or `verify` found a fault, 2 usage or configuration, 130 interrupted.

## speechmill.pipeline.errors

{pipeline}

## speechmill.codecs.errors

{codecs}"""
METRICS = """# Metrics

Ray serves these time series at the Prometheus endpoint of every node, with its own labels for the
node and the worker. [A dashboard and alerts](../../infra/grafana/README.md) use them.

| time series | kind | labels | meaning |
|---|---|---|---|
{rows}"""


def pages() -> dict[str, str]:
    """Return the text of every page by its file name."""
    found = {
        "configuration.md": _configuration(),
        "columns.md": _columns(),
        "errors.md": _errors(),
        "metrics.md": _metrics(),
    }
    return {name: f"{NOTICE}\n\n{text.rstrip()}\n" for name, text in found.items()}


def _configuration() -> str:
    sections = [CONFIGURATION]
    for command, schema in COMMANDS.items():
        rows = "\n".join(_rows(schema, None, ""))
        sections.append(f"## {command}\n\n{KEYS}\n{rows}")
    return "\n\n".join(sections)


def _rows(schema: type, instance: Any, prefix: str) -> Iterator[str]:
    """Yield a line of the table for every key; `instance` holds the defaults of a section."""
    hints, comments = get_type_hints(schema), _comments(schema)
    for field in fields(schema):
        kind, key = _without_none(hints[field.name]), f"{prefix}{field.name}"
        default = _default(field) if instance is None else getattr(instance, field.name)
        comment = comments.get(field.name, "")
        entry = get_args(kind)[1] if get_origin(kind) is dict else None
        if is_dataclass(kind):
            yield _line(key, "section", default, _phrase(comment or _summary(kind)))
            yield from _rows(kind, default if is_dataclass(default) else None, f"{key}.")
        elif is_dataclass(entry):
            yield _line(f"{key}.<name>", "section", default, _phrase(comment or _summary(entry)))
            yield from _rows(entry, None, f"{key}.<name>.")
        else:
            yield _line(key, _type_name(kind), default, _phrase(comment))


def _line(key: str, kind: str, default: Any, meaning: str) -> str:
    cells = (f"`{key}`", kind, _shown(default), meaning)
    return "| " + " | ".join(cell.replace(" | ", " or ") for cell in cells) + " |"


def _phrase(comment: str) -> str:
    """Return a comment as the cell of a table, without a capital or a full stop."""
    plain = re.match(r"(?!Hz\b|Hugging\b)[A-Z][a-z-]*\b", comment)
    return (comment[:1].lower() + comment[1:] if plain else comment).removesuffix(".")


def _summary(schema: type) -> str:
    return (getdoc(schema) or "").split("\n\n")[0].replace("\n", " ").removesuffix(".")


def _default(field: "Field[Any]") -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _shown(default: Any) -> str:
    if default is MISSING or default == omegaconf.MISSING:
        return "required"
    if default is None:
        return "null"
    if is_dataclass(default):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    return "empty" if default in ([], {}, "") else f"`{default}`"


@cache
def _comments(schema: type) -> dict[str, str]:
    """Return the comment of each field by its name, also of the fields of parents."""
    found: dict[str, str] = {}
    for parent in reversed(schema.__mro__[:-1]):
        file = getsourcefile(parent)
        assert file
        found |= _comments_of_class(Path(file).read_text(), parent.__name__)
    return found


def _comments_of_class(source: str, name: str) -> dict[str, str]:
    """Return the comments by field: after the field, or in whole lines before it."""
    lines, found = source.splitlines(), {}
    for definition in ast.parse(source).body:
        if not isinstance(definition, ast.ClassDef) or definition.name != name:
            continue
        for field in definition.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                found[field.target.id] = _comment_of(field, lines)
    return {field: comment for field, comment in found.items() if comment}


def _comment_of(field: ast.AnnAssign, lines: list[str]) -> str:
    first, last = field.lineno - 1, (field.end_lineno or field.lineno) - 1
    _, mark, after = lines[last][field.end_col_offset :].partition("#")
    if mark:
        return after.strip()
    before: list[str] = []
    while lines[first - 1].lstrip().startswith("#"):
        first -= 1
        before.insert(0, lines[first].strip(" #"))
    return " ".join(before)


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        [kind] = [part for part in get_args(hint) if part is not NoneType]
        return kind
    return hint


def _type_name(kind: Any) -> str:
    if get_origin(kind) is list:
        return f"list of {_type_name(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return "mapping"
    names = {str: "string", int: "integer", float: "number", bool: "boolean", Any: "any"}
    return names.get(kind, getattr(kind, "__name__", "any"))


def _columns() -> str:
    version = max(SCHEMA_VERSIONS)
    schema = token_schema(codec_info("null").codebook_sizes, version)
    tokens = _table_of_columns(schema, TOKEN_COLUMNS)
    rejects = _table_of_columns(reject_schema(version), REJECT_COLUMNS)
    index = _table_of_columns(INDEX_SCHEMA, INDEX_COLUMNS)
    return COLUMNS.format(tokens=tokens, rejects=rejects, index=index)


def _table_of_columns(schema: pa.Schema, meanings: dict[str, str]) -> str:
    assert list(meanings) == schema.names, "describe every column of the schema, in its order"
    header = ["| column | type | may be null | meaning |", "|---|---|---|---|"]
    rows = [
        f"| `{column.name}` | {_arrow_name(column.type)} | {'yes' if column.nullable else 'no'} | "
        f"{meanings[column.name]} |"
        for column in schema
    ]
    return "\n".join([*header, *rows])


def _arrow_name(kind: pa.DataType) -> str:
    return f"list of {kind.value_type}" if pa.types.is_list(kind) else str(kind)


def _errors() -> str:
    pipeline, codecs = pipeline_errors.SpeechmillError, codec_errors.CodecError
    return ERRORS.format(pipeline=_tree(pipeline), codecs=_tree(codecs))


def _tree(root: type, depth: int = 0) -> str:
    lines = [f"{'  ' * depth}- `{root.__name__}`: {_summary(root)}"]
    own = [child for child in root.__subclasses__() if child.__module__ == root.__module__]
    return "\n".join([*lines, *(_tree(child, depth + 1) for child in own)])


def _metrics() -> str:
    rows = [
        f"| `ray_speechmill_{m.name}{'' if m.is_gauge else '_total'}` | "
        f"{'gauge' if m.is_gauge else 'counter'} | {', '.join(m.labels)} | {m.help} |"
        for m in metrics.ALL
    ]
    return METRICS.format(rows="\n".join(rows))


if __name__ == "__main__":
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
