"""Shar of lhotse, which NeMo reads as well: cuts as JSON lines, and codes in a tar beside them."""

import gzip
import io
import json
import re
from typing import Any

from speechmill.pipeline.dataset.export.memmap import npy
from speechmill.pipeline.dataset.export.part import Array, Files, Part, json_line
from speechmill.pipeline.shards.webdataset import SampleWriter

_FORBIDDEN = re.compile(r"\s")
# A cut has attributes of these names, so those of the source are called otherwise.
_OF_CUTS = ("start", "end", "duration", "channel", "sample_rate", "num_channels")
_RENAMED = {name: f"source_{name}" for name in _OF_CUTS}
_LEFT_OUT = ("text", "num_frames")  # they are in the supervision and the array


def write(part: Part) -> Files:
    """`codes.<part>.tar`, then `cuts.<part>.jsonl.gz`, with the utterances in the same order.

    A cut lasts as long as its frames, which may exceed the audio by a part of a frame, so that
    `cut.load_codes()` gives all of them. It has no recording; `sampling_rate`, without which lhotse
    does not truncate it, is what the codec takes. Its id is the stem of the part and
    the key, because ids must differ in a `CutSet`.
    """
    frame_shift = 1 / part.codec.frame_rate
    sink, cuts = io.BytesIO(), []
    with SampleWriter(sink) as tar:
        for row in part.utterances(_FORBIDDEN):
            cut = f"{part.stem}/{row.name}"
            manifest = json.dumps(_temporal_array(row.ids, frame_shift)).encode()
            tar.write(cut, {"npy": npy(row.ids), "json": manifest})
            cuts.append(
                json_line(_cut(cut, len(row.ids) * frame_shift, part.codec.sample_rate, row.facts))
            )
    yield f"codes.{part.stem}.tar", sink.getvalue()
    yield f"cuts.{part.stem}.jsonl.gz", gzip.compress(b"".join(cuts), mtime=0)


def _temporal_array(codes: Array, frame_shift: float) -> dict[str, Any]:
    """The manifest of an array in a tar of a Shar; the first axis is time."""
    place = {"storage_type": "shar", "storage_path": "", "storage_key": ""}
    array = place | {"shape": list(codes.shape)}
    return {"array": array, "temporal_dim": 0, "frame_shift": frame_shift, "start": 0}


def _cut(name: str, duration: float, rate: int, facts: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a cut.

    `metadata` must stay a text: lhotse takes a dictionary with certain names for a recording, whose
    source may be a command of the shell.
    """
    span = {"start": 0, "duration": duration, "channel": facts.get("channel") or 0}
    names = {"id": name, "recording_id": facts["key"], "text": facts["text"]}
    custom = {_RENAMED.get(k, k): v for k, v in facts.items() if k not in _LEFT_OUT}
    return {
        "id": name,
        **span,
        "supervisions": [] if facts["text"] is None else [names | span],
        "custom": {"sampling_rate": rate} | custom,
        "type": "MonoCut",
    }
