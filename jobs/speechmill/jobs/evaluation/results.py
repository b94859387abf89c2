"""The results of an evaluation: for each clip, for each system and as a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import log2, sqrt
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from speechmill.codecs import CodecInfo
from speechmill.jobs.display import add_plain_row
from speechmill.pipeline.quality.codebook_usage import CodebookUse, CodeCounts
from speechmill.pipeline.quality.speech import word_error_rate
from speechmill.pipeline.versions import library_versions

SCHEMA_VERSION = 1
_NAMED = 5  # clips without a score, in a line


@dataclass(frozen=True, slots=True)
class MetricFormat:
    """How a metric is shown."""

    title: str
    better: str  # ↑ or ↓
    digits: int = 2


METRICS = {
    "pesq": MetricFormat("PESQ", "↑"),
    "stoi": MetricFormat("STOI", "↑", 3),
    "si_sdr": MetricFormat("SI-SDR dB", "↑", 1),
    "mel": MetricFormat("mel", "↓", 3),
    "stft": MetricFormat("STFT", "↓", 3),
    "dnsmos_ovr": MetricFormat("DNSMOS", "↑"),
    "dnsmos_sig": MetricFormat("SIG", "↑"),
    "dnsmos_bak": MetricFormat("BAK", "↑"),
    "speaker": MetricFormat("speaker", "↑", 3),
    "wer": MetricFormat("WER", "↓", 3),
}


@dataclass(frozen=True, slots=True)
class ScoredClip:
    """One clip through one system."""

    key: str
    seconds: float
    scores: dict[str, float | None]  # None if the metric is not defined on the clip
    text: str | None
    transcript: str | None
    encode_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True)
class CodecFacts:
    """A codec with a number of codebooks, and how often it used their entries."""

    name: str
    title: str
    revision: str
    checkpoint_sha256: str | None
    precision: str
    num_codebooks: int
    kbps: float  # nominal: log2 of the codebooks' sizes
    entropy_kbps: float  # by the frequency of each code, without context
    frames: int
    codebooks: list[CodebookUse]  # of all codebooks of the codec

    @classmethod
    def of(
        cls, info: CodecInfo, precision: str, num_codebooks: int, counts: CodeCounts
    ) -> "CodecFacts":
        bits = sum(log2(size) for size in info.codebook_sizes[:num_codebooks])
        return cls(
            name=info.name,
            title=info.title,
            revision=info.revision,
            checkpoint_sha256=info.checkpoint_sha256,
            precision=precision,
            num_codebooks=num_codebooks,
            kbps=info.frame_rate * bits / 1000,
            entropy_kbps=counts.entropy_kbps(num_codebooks, info.frame_rate),
            frames=counts.frames,
            codebooks=counts.use(),
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """A metric over the clips on which it is defined."""

    mean: float
    ci95: float | None  # half the width of the 95 % interval of the mean, from its standard error
    count: int


@dataclass(frozen=True)
class System:
    """One codec with one number of codebooks, or the clips themselves."""

    label: str
    codec: CodecFacts | None
    clips: list[ScoredClip]
    left_out: list[str] = field(default_factory=list)  # keys of clips under a frame of the codec

    @cached_property
    def scores(self) -> dict[str, Summary]:
        """Return the summaries by metric; the word error rate is that of all words together."""
        found = {}
        for name in METRICS:
            scores = [clip.scores.get(name) for clip in self.clips]
            if values := [value for value in scores if value is not None]:
                found[name] = _summary(values)
        if "wer" in found:
            spoken = [
                (c.text, c.transcript) for c in self.clips if c.text and c.transcript is not None
            ]
            total = word_error_rate([text for text, _ in spoken], [words for _, words in spoken])
            found["wer"] = Summary(total, None, len(spoken))
        return found

    @property
    def undefined(self) -> dict[str, list[str]]:
        """Return the keys of the clips on which a metric is not defined, by metric."""
        found: dict[str, list[str]] = {}
        for clip in self.clips:
            for name in (name for name, score in clip.scores.items() if score is None):
                found.setdefault(name, []).append(clip.key)
        return found

    @property
    def real_time_factors(self) -> tuple[float, float]:
        """Return the seconds of encoding and of decoding per second of audio."""
        seconds = sum(clip.seconds for clip in self.clips) or 1.0
        encoding = sum(clip.encode_seconds for clip in self.clips)
        return encoding / seconds, sum(clip.decode_seconds for clip in self.clips) / seconds

    def to_dict(self) -> dict[str, Any]:
        encode, decode = self.real_time_factors
        return {
            "label": self.label,
            "codec": asdict(self.codec) if self.codec else None,
            "scores": {name: asdict(summary) for name, summary in self.scores.items()},
            "undefined": self.undefined,
            "left_out": self.left_out,
            "real_time_factor": {"encode": encode, "decode": decode} if self.codec else None,
            "clips": [asdict(clip) for clip in self.clips],
        }


@dataclass(frozen=True, slots=True)
class Results:
    """The content of `results.json`."""

    num_clips: int
    seconds: float
    rejects: dict[str, str]  # clips left out, with the reason
    skipped: dict[str, str]  # metrics left out, with the reason
    systems: list[System]
    config: str  # YAML

    def to_json(self) -> str:
        document = {
            "schema_version": SCHEMA_VERSION,
            "num_clips": self.num_clips,
            "seconds": self.seconds,
            "rejects": self.rejects,
            "skipped": self.skipped,
            "systems": [system.to_dict() for system in self.systems],
            "libraries": library_versions(),
            "config": self.config,
        }
        return json.dumps(document, indent=1, allow_nan=False) + "\n"


def columns(results: Results) -> dict[str, MetricFormat]:
    """Return the metrics that at least one system has."""
    return {n: m for n, m in METRICS.items() if any(n in s.scores for s in results.systems)}


def cells(system: System, metrics: Sequence[str]) -> list[str]:
    """Return a system's row: label, codebooks, bit rates, metrics, real-time factors."""
    codec = system.codec
    row = [system.label]
    row += [f"{codec.num_codebooks}" if codec else ""]
    row += [f"{codec.kbps:.2f}", f"{codec.entropy_kbps:.2f}"] if codec else ["", ""]
    for name in metrics:
        found = system.scores.get(name)
        row.append(f"{found.mean:.{METRICS[name].digits}f}" if found else "")
    factors = system.real_time_factors
    return [*row, f"{factors[0]:.3f}", f"{factors[1]:.3f}"] if codec else [*row, "", ""]


def headings(metrics: dict[str, MetricFormat]) -> list[str]:
    """Return the headings of the `cells`."""
    titles = [f"{metric.title} {metric.better}" for metric in metrics.values()]
    return ["system", "books", "kbit/s", "entropy", *titles, "RTF enc", "RTF dec"]


def without_score(results: Results) -> list[str]:
    """Return a line for each system and metric that lacks clips, with the first of their keys."""
    lines = []
    for system in results.systems:
        books = f", {system.codec.num_codebooks} codebooks" if system.codec else ""
        for name, keys in system.undefined.items():
            lines.append(f"{system.label}{books}: {METRICS[name].title} of {_few(keys)}")
        if system.left_out:
            lines.append(f"{system.label}{books}: {_few(system.left_out)}, under a frame")
    return lines


def _few(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - _NAMED} more" if len(keys) > _NAMED else ""
    return ", ".join(keys[:_NAMED]) + more


def summary_table(results: Results) -> Table:
    """Return a table with one row for each system."""
    metrics = columns(results)
    table = Table(box=None)
    for position, heading in enumerate(headings(metrics)):
        table.add_column(heading, justify="right" if position else "left", no_wrap=True)
    for system in results.systems:
        add_plain_row(table, *cells(system, list(metrics)))
    return table


def _summary(values: list[float]) -> Summary:
    half = 1.96 * stdev(values) / sqrt(len(values)) if len(values) > 1 else None
    return Summary(fmean(values), half, len(values))
