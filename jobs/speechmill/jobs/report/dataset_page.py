"""`report.html`: a whole dataset, with all of its runs, on one page."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from typing import Any
from urllib.parse import quote

from speechmill.jobs.existing_dataset import UNFINISHED
from speechmill.jobs.report import render
from speechmill.jobs.report.logs import Run, commits_of, read_runs
from speechmill.jobs.report.parts import Contents, FoundPart, list_parts, read_contents
from speechmill.jobs.report.rejects import failed_shards, reject_reasons
from speechmill.jobs.report.run_charts import first_commits, time_charts
from speechmill.jobs.report.sample import RowSample, choose_utterances, codebook_sizes, sample_rows
from speechmill.jobs.report.timeline import working_spans
from speechmill.jobs.report.token_charts import codebook_chart, duration_chart, rate_facts
from speechmill.jobs.report.utterances import Listening, listen
from speechmill.jobs.report.wording import (
    audio_length,
    counted,
    lasted,
    limited,
    moment,
    share,
    short,
)
from speechmill.jobs.report.work import bottleneck, slowest, stages_of
from speechmill.pipeline.dataset.layout import COMPACTED, DAMAGE, TokenDataset
from speechmill.pipeline.errors import StorageNotFound
from speechmill.pipeline.run.run_log import RunStatus
from speechmill.pipeline.shards.listing import stem_of_part
from speechmill.pipeline.storage import join

_MOST_FAULTS = 30
_MOST_RUNS = 100
_IDENTITY_BYTES = 2**22
_STATE = {
    UNFINISHED: "did not end: it was killed, or is still running",
    RunStatus.INTERRUPTED: "was interrupted; the same command resumes it",
    RunStatus.ABORTED: "was aborted by an error; the same command resumes it",
}
_RUN_ID = 60  # characters


@dataclass(frozen=True, slots=True)
class PageOptions:
    """What a page shows."""

    clips: int = 12  # utterances to listen to
    sources: tuple[str, ...] = ()  # folders or tars; no tar is read elsewhere
    seed: int = 0  # of the choice of footers, rows, examples and utterances


@dataclass(frozen=True, slots=True)
class Tile:
    """One large number."""

    name: str
    value: str
    note: str


@dataclass(frozen=True, slots=True)
class ProgressPart:
    """A part of the bar of all shards, in percent; `kind` is a class of the style sheet."""

    kind: str
    label: str
    x: float
    width: float


@dataclass
class Findings:
    """What was read of a dataset; a line in `faults` names what could not be."""

    dataset: TokenDataset
    identity: dict[str, Any]
    parts: list[FoundPart]
    contents: Contents
    runs: list[Run]
    failed: int
    faults: list[str]

    @property
    def newest(self) -> Run | None:
        return self.runs[-1] if self.runs else None

    @cached_property
    def unlogged(self) -> int:
        """Parts that no log names: a run that is killed loses the end of its log."""
        logged = {commit.shard for commit in commits_of(self.runs)}
        counts = self.runs and not self.is_compacted
        return sum(part.name not in logged for part in self.parts) if counts else 0

    @cached_property
    def left(self) -> int | None:
        """Shards that the newest run did not finish, and those whose part was deleted since."""
        if self.newest is None or self.is_compacted:
            return None
        there = {stem_of_part(part.name) for part in self.parts}  # that of a changed tar, too
        deleted = {stem_of_part(commit.shard) for commit in commits_of(self.runs)} - there
        return (self.newest.left or 0) + len(deleted) if deleted else self.newest.left

    @property
    def is_compacted(self) -> bool:
        return COMPACTED in self.identity


def dataset_page(
    dataset: TokenDataset, options: PageOptions, overrides: list[str], *, with_links: bool = True
) -> str:
    """Return the page as HTML, with links to the pages of runs if it is put beside `runs/`.

    Raises `InputError` without a dataset.
    """
    identity = _identity(dataset)
    faults: list[str] = []
    parts = list_parts(dataset, dataset.folder)
    contents = read_contents(dataset, identity, parts, options.seed, faults)
    failed, num_failed = failed_shards(dataset, faults)
    runs = read_runs(dataset, faults)
    found = Findings(dataset, identity, parts, contents, runs, num_failed, faults)
    sample, sizes = _sample(found, options.seed)
    places = choose_utterances(sample.groups, options.clips, options.seed)
    listening = listen(dataset, places, options.sources, overrides, faults)
    reasons = reject_reasons(dataset, contents, options.seed, faults)
    commits = list(commits_of(runs))
    return render(
        "dataset.html",
        title=limited(dataset.root.rstrip("/").rpartition("/")[2], 80),
        subtitle=_subtitle(found),
        sentence=_sentence(found),
        tiles=_tiles(found, len(sizes)),
        progress=_progress(found),
        time_charts=time_charts(runs),
        unlogged=_unlogged(found.unlogged),
        stages=stages_of(commits),
        bottleneck=bottleneck(commits),
        slowest=slowest(first_commits(runs)),
        sample=_about_sample(found, sample),
        durations=duration_chart(sample.durations_N),
        codebooks=codebook_chart(sample.counts) if sample.counts else None,
        rates=rate_facts(found.contents, sample.counts, sizes) if sample.counts else {},
        listening=listening,
        about_clips=_about_clips(listening, options),
        reasons=reasons,
        more_reasons=_more(len(contents.rejects) - len(reasons), "reason"),
        failed=failed,
        about_failed=f"{num_failed:,} given up on; the next run tries them again.",
        runs=[_run_row(run, with_links) for run in reversed(runs[-_MOST_RUNS:])],
        more_runs=_more(len(runs) - _MOST_RUNS, "early run"),
        about=_about(found, options),
        faults=_shown_faults(faults),
    )


def _identity(dataset: TokenDataset) -> dict[str, Any]:
    with suppress(StorageNotFound):
        dataset.storage.read_small(join(dataset.root, dataset.identity_file), _IDENTITY_BYTES)
    return dataset.require_identity()


def _sample(found: Findings, seed: int) -> tuple[RowSample, tuple[int, ...]]:
    try:
        sizes = codebook_sizes(found.identity)
    except DAMAGE as error:
        found.faults.append(str(error))
        return RowSample(), ()
    return sample_rows(found.dataset, found.parts, sizes, seed, found.faults), sizes


def _subtitle(found: Findings) -> str:
    named = {name: limited(found.identity.get(name, "?"), 80) for name in ("codec", "revision")}
    mark = "" if found.identity.get("trained", True) else " (untrained)"
    precision = limited(found.identity.get("precision", "?"), 20)
    return (
        f"{named['codec']}{mark}, revision {named['revision']}, {precision} · {found.dataset.root}"
    )


def _sentence(found: Findings) -> str:
    """Return the state of the dataset as one would say it."""
    newest, failed = found.newest, found.failed
    if found.is_compacted:
        return "A compacted dataset, with the logs of the runs that made its rows."
    if newest is None:
        return "No run has a log here."
    counts = {"left": found.left, "failed": failed}
    open_shards = [f"{count:,} {name}" for name, count in counts.items() if count]
    if newest.status not in (RunStatus.DONE, RunStatus.FAILED):
        state = f"The newest run {_STATE.get(newest.status, newest.status)}"
        return f"{state}. Shards: {', '.join(open_shards) or 'none left'}."
    if open_shards:
        return (
            f"Not all shards are done: {', '.join(open_shards)}. The same command tries them again."
        )
    return "All shards are done."


def _tiles(found: Findings, num_codebooks: int) -> list[Tile]:
    contents = found.contents
    about = "" if contents.exact else "≈ "
    work = sum(span.seconds for span in working_spans(found.runs))
    audio = sum(commit.audio for commit in first_commits(found.runs))
    rejects = sum(contents.rejects.values())
    tokens = contents.frames * num_codebooks
    mean = contents.audio / contents.rows if contents.rows else 0.0
    rate = contents.frames / contents.audio if contents.audio else 0.0
    speed = f"{audio / work:,.0f} x" if work and audio else "-"
    runs, books = counted(len(found.runs), "run"), counted(num_codebooks, "codebook")

    def tile(name: str, value: str, note: str) -> Tile:
        """A number that the footers count."""
        if contents.parts and not contents.counted:
            return Tile(name, "?", "no footer can be read")
        return Tile(name, about + value, note)

    return [
        tile("audio", audio_length(contents.audio), _accuracy(contents)),
        tile("utterances", short(contents.rows), f"{mean:.2f} s on average"),
        tile("tokens", short(tokens), f"{books}, {rate:.4g} frames/s"),
        Tile("shards done", f"{len(found.parts):,}", _open_shards(found))
        if not found.is_compacted
        else Tile("files", f"{len(found.parts):,}", "compacted"),
        Tile("real time", speed, f"{runs}, {lasted(work)}" if work else "no log"),
        tile(
            "rejects",
            short(rejects),
            f"{share(rejects, contents.rows + rejects)} of samples",
        ),
    ]


def _accuracy(contents: Contents) -> str:
    if contents.exact:
        return f"in {counted(contents.parts, 'part')}"
    read = f"{contents.counted:,} of {contents.parts:,} footers"
    return f"± {share(contents.error, 1)}, from {read}" if contents.error else f"from {read}"


def _open_shards(found: Findings) -> str:
    left = found.left
    most = "up to " if found.unlogged and left else ""
    known = "" if left is None else f", {most}{left:,} left"
    return f"{found.failed:,} failed{known}"


def _progress(found: Findings) -> list[ProgressPart]:
    if found.is_compacted:
        return []
    counts = [("good", "done", len(found.parts)), ("bad", "failed", found.failed)]
    counts.append(("rest", "left", max(0, found.left or 0)))
    total = sum(count for *_, count in counts)
    parts, at = [], 0.0
    for kind, name, count in counts:
        if count:
            width = 100 * count / total
            parts.append(ProgressPart(kind, f"{count:,} {name}", at, width))
            at += width
    return parts


def _unlogged(count: int) -> str:
    if not count:
        return ""
    return f"In no log: {counted(count, 'part')}. A killed run loses up to 30 s of its log."


def _about_sample(found: Findings, sample: RowSample) -> str:
    rows, groups = len(sample.durations_N), len(sample.groups)
    of_all = share(rows, found.contents.rows)
    read = f"{counted(groups, 'row group')} of {counted(sample.parts, 'part')}"
    text = f"From {counted(rows, 'row')} in {read}"
    return f"{text}, {of_all} of the utterances" + ("." if of_all == "100 %" else ", by chance.")


def _about_clips(listening: Listening, options: PageOptions) -> str:
    text = "Chosen by chance, spread over durations and parts. Sound is 16-bit FLAC, without loss."
    if options.sources:
        return f"{text} The original is what the codec was given: resampled, and of one channel."
    return f"{text} Name the folder of the source tars by --source to hear the originals too."


def _more(count: int, what: str) -> str:
    return f"{counted(count, f'more {what}')}." if count > 0 else ""


def _run_row(run: Run, with_link: bool) -> dict[str, str]:
    link = f"runs/{quote(run.run_id, safe='')}/report.html"
    return {
        "link": link if with_link and run.has_page and len(run.run_id) <= _RUN_ID else "",
        "started": limited(run.run_id, _RUN_ID) if run.started is None else moment(run.started),
        "lasted": lasted(run.seconds) if run.ended else "?",
        "shards": f"{len(run.commits):,}" + (f" of {run.planned:,}" if run.planned else ""),
        "audio": audio_length(run.audio),
        "speed": f"{run.audio / run.seconds:,.0f}" if run.seconds and run.audio else "",
        "failures": f"{run.num_failures:,}",
        "lost": f"{run.events['worker lost']:,}",
        "status": "killed or running" if run.status == UNFINISHED else run.status,
    }


def _about(found: Findings, options: PageOptions) -> dict[str, str]:
    identity, contents = found.identity, found.contents
    names = ("schema_version", "audio_version", "channels", "resampler", "segment", "filters")
    now = datetime.now(UTC).strftime("%d %b %Y, %H:%M")
    facts = {
        "dataset": limited(found.dataset.root, 300),
        **{n.replace("_", " "): limited(identity[n], 300) for n in names if identity.get(n)},
        "devices": _counts(contents.devices),
        "speechmill": _counts(contents.versions),
        "this page": f"{now} UTC, by speechmill {version('speechmill')}, seed {options.seed}",
    }
    return {name: fact for name, fact in facts.items() if fact}


def _counts(counts: Any) -> str:
    return ", ".join(
        f"{limited(name, 60)} ({counted(n, 'part')})" for name, n in counts.most_common(5)
    )


def _shown_faults(faults: list[str]) -> list[str]:
    more = [f"{len(faults) - _MOST_FAULTS:,} more."] if len(faults) > _MOST_FAULTS else []
    return [limited(fault, 500) for fault in faults[:_MOST_FAULTS]] + more
