"""What a sample says beside its audio: which member is the audio, its JSON and its transcript."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from speechmill.pipeline.audio.containers.recognize import OTHER_SUFFIXES, USUAL_SUFFIXES
from speechmill.pipeline.errors import NoAudio
from speechmill.pipeline.shards.tar_reader import Sample
from speechmill.pipeline.text import clean_json, decode_text


@dataclass(frozen=True, slots=True)
class Description:
    """The texts of a sample, all of them valid UTF-8."""

    metadata: str | None = None  # the JSON as it stands there
    parsed: Any = None
    text: str | None = None
    bad_json: bool = False  # there is JSON, but it cannot be parsed
    num_cleaned: int = 0  # texts with U+FFFD for what is not UTF-8, or not a whole character


def describe(sample: Sample, audio: str) -> Description:
    """Read the `.json` and the `.txt` of a sample whose audio has the suffix `audio`.

    Without a `.txt`, the transcript is `text` of the JSON.
    """
    metadata, parsed, bad_json, num_cleaned = None, None, False, 0
    if (member := _beside(sample, audio, "json")) is not None:
        decoded, damaged = decode_text(sample.members[member][:])
        metadata, lone = clean_json(decoded)
        try:
            parsed = json.loads(metadata)
            num_cleaned += damaged or lone
        except (ValueError, RecursionError):
            metadata, bad_json = None, True
    text = parsed.get("text") if isinstance(parsed, dict) else None
    if (member := _beside(sample, audio, "txt")) is not None:
        text, damaged = decode_text(sample.members[member][:])
        text = text.removesuffix("\n").removesuffix("\r")
        num_cleaned += damaged
    return Description(
        metadata, parsed, text if isinstance(text, str) else None, bad_json, num_cleaned
    )


def _beside(sample: Sample, audio: str, kind: str) -> str | None:
    """The suffix of the JSON or text of the audio: its own only if the sample has none."""
    stem = ""
    for part in (*audio.split(".")[:-1], ""):
        if f"{stem}{kind}" in sample.members:
            return f"{stem}{kind}"
        stem = f"{stem}{part}."
    return None


def audio_candidates(sample: Sample) -> list[str]:
    """The members that can be the audio.

    A suffix that is a format (`flac`) is preferred to one that ends in a format (`take.2.flac`),
    and a usual format to others.
    """
    for formats in (USUAL_SUFFIXES, OTHER_SUFFIXES):
        plain = [suffix for suffix in sample.members if suffix in formats]
        dotted = [suffix for suffix in sample.members if suffix.split(".")[-1] in formats]
        if plain or dotted:
            return plain or dotted
    return []


def audio_suffix(sample: Sample, wanted: str | None) -> str:
    """The member that holds the audio: the wanted one, or the only candidate."""
    if wanted:
        if wanted not in sample.members:
            raise NoAudio(f"no member .{wanted}; there are {_listed(list(sample.members))}")
        return wanted
    candidates = audio_candidates(sample)
    if not candidates:
        raise NoAudio(f"none of {_listed(list(sample.members))} is audio")
    if len(candidates) > 1:
        raise NoAudio(
            f"{_listed(candidates)} could all be the audio of {sample.key!r}, because keys end at "
            "the first dot; set audio.member to take one of them, or rename the files"
        )
    return candidates[0]


def _listed(suffixes: Sequence[str]) -> str:
    few = ", ".join(f".{suffix}" for suffix in suffixes[:10])
    return few if len(suffixes) <= 10 else f"{few} and {len(suffixes) - 10} more"
