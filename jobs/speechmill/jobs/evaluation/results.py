"""The results of an evaluation: for each clip, for each system and as a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from math import fsum, log2
from typing import Any

from rich.table import Table

from speechmill.codecs import CodecInfo
from speechmill.jobs.display import add_plain_row
from speechmill.pipeline.quality.bootstrap import bootstrap_interval
from speechmill.pipeline.quality.codebook_usage import CodebookUse, CodeCounts
from speechmill.pipeline.quality.transcript_errors import ErrorCount
from speechmill.pipeline.versions import library_versions

SCHEMA_VERSION = 2
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
    "visqol": MetricFormat("ViSQOL", "↑"),
    "dnsmos_ovr": MetricFormat("DNSMOS", "↑"),
    "dnsmos_sig": MetricFormat("SIG", "↑"),
    "dnsmos_bak": MetricFormat("BAK", "↑"),
    "distillmos": MetricFormat("DistillMOS", "↑"),
    "speaker": MetricFormat("speaker", "↑", 3),
    "wer": MetricFormat("WER", "↓", 3),
    "cer": MetricFormat("CER", "↓", 3),
}


@dataclass(frozen=True, slots=True)
class ScoredClip:
    """One clip through one system."""

    key: str
    seconds: float
    scores: dict[str, float | None]  # None if the metric is not defined on the clip
    text: str | None
    transcript: str | None
    errors: dict[str, ErrorCount]  # of words and characters, by the metric
    encode_seconds: float
    decode_seconds: float

    def part_of_mean(self, metric: str) -> tuple[float, float] | None:
        """Return the clip's term of the sum over all clips, and its weight, if it has one."""
        if count := self.errors.get(metric):
            return count.errors, count.total
        score = self.scores.get(metric)
        return None if score is None else (score, 1.0)


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

    mean: float  # of WER and CER: errors over words or characters, of all clips
    ci: tuple[float, float]  # 95 % interval of the mean, by bootstrap over clips
    count: int

    @classmethod
    def of(cls, parts: Sequence[tuple[float, float]]) -> "Summary":
        """Summarize a metric from each clip's term and weight."""
        sums, weights = zip(*parts, strict=True)
        return cls(fsum(sums) / fsum(weights), bootstrap_interval(sums, weights), len(parts))


@dataclass(frozen=True)
class System:
    """One codec with one number of codebooks, a baseline, or the clips themselves."""

    label: str
    codec: CodecFacts | None
    clips: list[ScoredClip]
    left_out: list[str] = field(default_factory=list)  # keys of clips under a frame of the codec
    measured_kbps: float | None = None  # of a baseline's packets

    @cached_property
    def scores(self) -> dict[str, Summary]:
        """Return the summaries by metric, of the metrics that any clip has."""
        found = {}
        for name in METRICS:
            parts = [part for clip in self.clips if (part := clip.part_of_mean(name))]
            if parts:
                found[name] = Summary.of(parts)
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
    def kbps(self) -> float | None:
        """Return the bit rate: nominal of a codec, measured of a baseline, None of the clips."""
        return self.codec.kbps if self.codec else self.measured_kbps

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
            "measured_kbps": self.measured_kbps,
            "scores": {name: asdict(summary) for name, summary in self.scores.items()},
            "undefined": self.undefined,
            "left_out": self.left_out,
            "real_time_factor": None if self.kbps is None else {"encode": encode, "decode": decode},
            "clips": [asdict(clip) for clip in self.clips],
        }


@dataclass(frozen=True, slots=True)
class Results:
    """The content of `results.json`."""

    num_clips: int
    seconds: float
    rejects: dict[str, str]  # clips left out, with the reason
    skipped: dict[str, str]  # metrics left out, with the reason
    normalizer: str  # of texts and transcripts
    systems: list[System]
    config: str  # YAML

    def to_json(self) -> str:
        document = {
            "schema_version": SCHEMA_VERSION,
            "num_clips": self.num_clips,
            "seconds": self.seconds,
            "rejects": self.rejects,
            "skipped": self.skipped,
            "normalizer": self.normalizer,
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
    row = [system.label, f"{codec.num_codebooks}" if codec else ""]
    row += ["" if system.kbps is None else f"{system.kbps:.2f}"]
    row += [f"{codec.entropy_kbps:.2f}" if codec else ""]
    for name in metrics:
        found = system.scores.get(name)
        row.append(f"{found.mean:.{METRICS[name].digits}f}" if found else "")
    if system.kbps is None:
        return [*row, "", ""]
    return [*row, *(f"{factor:.3f}" for factor in system.real_time_factors)]


def intervals(system: System, metrics: Sequence[str]) -> list[str]:
    """Return the 95 % intervals of the `cells`; empty for cells that are not of a metric."""
    row = []
    for name in metrics:
        found, digits = system.scores.get(name), METRICS[name].digits
        row.append(f"{found.ci[0]:.{digits}f} to {found.ci[1]:.{digits}f}" if found else "")
    return ["", "", "", "", *row, "", ""]


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
