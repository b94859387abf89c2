"""Formats whose header states the size of the samples: AU and NIST SPHERE."""

from typing import Literal

from speechmill.pipeline.audio.containers.held import Held, cut, endless, refuse_tail
from speechmill.pipeline.audio.containers.tags import end_of_tags
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import UndecodableAudio

_UNKNOWN = 0xFFFFFFFF  # size of the samples of an AU that was written to a pipe


def check_au(data: Blob) -> Held:
    """The header states where the samples begin and how many bytes they take."""
    order: Literal["big", "little"] = "big" if data[:4] == b".snd" else "little"
    start, size = (int.from_bytes(data[at : at + 4], order) for at in (4, 8))
    if size == _UNKNOWN:
        raise endless("AU")
    if start + size > len(data):
        raise cut(start + size - len(data))
    refuse_tail(data, end_of_tags(data, start + size))
    return Held(size, end=start + size)


def check_sphere(data: Blob) -> Held:
    """The header is text: its own size, then a field in each line (NIST SPHERE 2.6)."""
    fields = _sphere_fields(data)
    try:
        start = int(data[8:16])
        num_samples = int(fields["sample_count"])
        per_sample = int(fields.get("channel_count", 1)) * int(fields["sample_n_bytes"])
    except (KeyError, ValueError) as error:
        raise UndecodableAudio(f"the SPHERE header does not state {error}") from error
    coding = fields.get("sample_coding", "pcm")
    if "," in coding:
        raise UndecodableAudio(f"SPHERE compressed as {coding!r}; expand it with sph2pipe")
    if min(start, num_samples, per_sample) < 0:
        raise UndecodableAudio("a number in the SPHERE header is negative")
    end = start + num_samples * per_sample
    if end > len(data):
        raise cut(end - len(data))
    refuse_tail(data, end_of_tags(data, end))
    return Held(end - start, num_samples, end=end)


def _sphere_fields(data: Blob) -> dict[str, str]:
    """The fields of the header: `name -type value`."""
    header = data[16:4096].partition(b"end_head")[0].decode("ascii", "replace")
    words = [line.split(None, 2) for line in header.splitlines()]
    return {parts[0]: parts[2].strip() for parts in words if len(parts) == 3}
