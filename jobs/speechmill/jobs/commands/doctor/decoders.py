"""Checks of the audio decoders, on the sample speech that ships with the package."""

import json
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from speechmill.jobs.commands.doctor.checks import Said, fault, ok
from speechmill.jobs.commands.examples import examples_folder
from speechmill.pipeline.errors import SampleError

_REINSTALL = "reinstall soundfile, av and miniaudio"
_ROUNDED = 1e-3  # s to which the manifest rounds a duration


def decoders() -> Iterator[Said]:
    """The versions, and a clip of each format by two decoders, which must agree."""
    import av
    import soundfile

    clips = list(_shortest_of_each_format(examples_folder() / "samples"))
    faults = [said for path, seconds in clips if (said := _fault_of(path, seconds))]
    names = ", ".join(path.suffix[1:] for path, _ in clips)
    if faults:
        yield fault(f"{'; '.join(faults)}; {_REINSTALL}")
    else:
        yield ok(
            f"{names} by libsndfile {soundfile.__libsndfile_version__} and FFmpeg "
            f"{av.ffmpeg_version_info}, which agree"
        )


def _shortest_of_each_format(folder: Path) -> Iterator[tuple[Path, float]]:
    """A file and its seconds, for each suffix in the manifest."""
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]
    rows.sort(key=lambda row: (Path(row["path"]).suffix, row["duration"]))
    for _, same in groupby(rows, key=lambda row: Path(row["path"]).suffix):
        row = next(same)
        yield folder / row["path"], float(row["duration"])


def _fault_of(path: Path, seconds: float) -> str | None:
    """How the decoders are wrong about a file; None if they are right."""
    from speechmill.pipeline.audio.comparison import compare_decoders
    from speechmill.pipeline.audio.resample import AudioSettings
    from speechmill.pipeline.audio.samples import Limits

    try:
        found = compare_decoders(path.read_bytes(), AudioSettings(), Limits())
    except SampleError as error:
        return f"{path.name}: {error}"
    if abs(found.seconds - seconds) > _ROUNDED:
        return f"{path.name}: {found.seconds:.3f} s, it has {seconds:.3f} s"
    return f"{path.name}: {found.fault}" if found.fault else None
