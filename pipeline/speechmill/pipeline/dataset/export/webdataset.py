"""Tars for the `webdataset` library: `.npy`, `.json` and `.txt` for each utterance."""

import io
import json
import re

from speechmill.pipeline.dataset.export.memmap import npy
from speechmill.pipeline.dataset.export.part import Files, Part
from speechmill.pipeline.shards.webdataset import SampleWriter

# A key ends at its first dot, and members below a folder such as `__x__` are skipped.
_FORBIDDEN = re.compile(r"\.|^__")


def write(part: Part) -> Files:
    """One tar; `.json` holds the key of the dataset and the other columns of the row."""
    sink = io.BytesIO()
    with SampleWriter(sink) as tar:
        for row in part.utterances(_FORBIDDEN):
            members = {"npy": npy(row.ids), "json": json.dumps(row.facts).encode()}
            text = row.facts["text"]
            tar.write(row.name, members | ({} if text is None else {"txt": text.encode()}))
    yield f"{part.stem}.tar", sink.getvalue()
