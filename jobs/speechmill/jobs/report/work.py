"""Where the time of runs went, and which shards took most of it."""

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from speechmill.jobs.report.logs import Commit
from speechmill.jobs.report.wording import audio_length, ending, lasted
from speechmill.pipeline.run.diagnosis import find_bottleneck

_SLOWEST = 10
_MEANING = {
    "read": "waiting for storage, unpacking gzip and finding members of tars",
    "decode": "audio files to samples: decoding, resampling, segments, filters",
    "read and decode": "of logs of early versions, which do not tell one from the other",
    "encode": "the codec computed",
    "write": "rows to Parquet, and storage",
    "starved": "the codec had shards, but no batch yet; in this time others read and decoded",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """The time of one stage, summed over workers; `kind` is a class of the style sheet."""

    name: str
    seconds: float

    @property
    def kind(self) -> str:
        return self.name.partition(" ")[0]

    @property
    def meaning(self) -> str:
        return _MEANING[self.name]

    @property
    def shown(self) -> str:
        return lasted(self.seconds)


@dataclass(frozen=True, slots=True)
class SlowShard:
    """A shard that took long for its audio."""

    name: str
    audio: str
    rate: str  # x real time
    stages: list[Stage]
    seconds: float


def stages_of(commits: Iterable[Commit]) -> list[Stage]:
    """The time of each stage that was measured, over these shards."""
    seconds = dict.fromkeys(_MEANING, 0.0)
    for commit in commits:
        if commit.read is None:
            seconds["read and decode"] += commit.decode
        else:
            seconds["read"] += commit.read
            seconds["decode"] += max(0.0, commit.decode - commit.read)
        seconds["encode"] += commit.encode
        seconds["write"] += commit.write or 0.0
        seconds["starved"] += commit.starved
    return [Stage(name, value) for name, value in seconds.items() if value]


def bottleneck(commits: list[Commit]) -> str:
    """What limited the speed over these shards, in a sentence; empty if nothing was encoded."""
    found = find_bottleneck(
        encode=sum(commit.encode for commit in commits),
        starved=sum(commit.starved for commit in commits),
        decode=sum(commit.decode for commit in commits),
        decode_cpu=sum(commit.decode_cpu for commit in commits),
        read=sum(commit.decode if commit.read is None else commit.read for commit in commits),
    )
    return sentence_of(found.sentence) if found else ""


def sentence_of(line: str) -> str:
    """A line of a terminal as a sentence of a page."""
    return f"{line[:1].upper()}{line[1:]}." if line else ""


def slowest(commits: Iterable[Commit]) -> list[SlowShard]:
    """The shards with the most seconds of work for each second of audio."""
    with_audio = (commit for commit in commits if commit.audio and commit.work)
    ordered = heapq.nlargest(_SLOWEST, with_audio, key=lambda commit: commit.work / commit.audio)
    return [
        SlowShard(
            ending(commit.shard),
            audio_length(commit.audio),
            f"{commit.audio / commit.work:,.1f}",
            [stage for stage in stages_of([commit]) if stage.name != "starved"],
            commit.work,
        )
        for commit in ordered
    ]
