"""`runs/<run id>/report.html`: one run of a dataset on one page."""

from collections import Counter
from typing import Any

from speechmill.jobs.display import require_files
from speechmill.jobs.report import render
from speechmill.jobs.report.logs import Run, read_runs
from speechmill.jobs.report.run_charts import time_charts
from speechmill.jobs.report.wording import audio_length, lasted, limited
from speechmill.jobs.report.work import sentence_of, slowest, stages_of
from speechmill.pipeline.dataset.layout import ShardOutput
from speechmill.pipeline.errors import InputError, StorageError
from speechmill.pipeline.redaction import public_text
from speechmill.pipeline.run.run_log import run_folder
from speechmill.pipeline.storage import join
from speechmill.pipeline.text import clean

_CONFIG_BYTES = 2**20


def write_report(dataset: ShardOutput, run_id: str, url: str | None = None) -> str:
    """Write the page of a run, by default into its folder, and return its URL.

    Raises `InputError` if there is no such run.
    """
    faults: list[str] = []
    runs = read_runs(dataset, faults, run_id)
    if not runs:
        raise InputError(f"no run {run_id} in {join(dataset.root, 'runs')}")
    folder = run_folder(dataset.root, run_id)
    page = run_page(runs[0], _config(dataset, folder, faults), faults)
    url = url or join(folder, "report.html")
    dataset.storage.put(url, page.encode())
    require_files([url], dataset.storage)
    return url


def run_page(run: Run, config: str, faults: list[str]) -> str:
    """Return the page as HTML."""
    return render(
        "run.html",
        title=f"Run {limited(run.run_id, 60)}: {run.status}",
        sentence=sentence_of(run.bottleneck),
        facts=_facts(run),
        faults=[limited(fault, 500) for fault in faults],
        time_charts=time_charts([run]),
        stages=stages_of(run.commits),
        rejects=_rejects(run),
        failures=_failures(run),
        slowest=slowest(run.commits),
        config=config,
    )


def _config(dataset: ShardOutput, folder: str, faults: list[str]) -> str:
    """Return the settings of a run; those of early versions may hold signatures of URLs."""
    try:
        data = dataset.storage.read_small(join(folder, "config.yaml"), _CONFIG_BYTES)
        return clean(public_text(data.decode(errors="replace")))
    except (InputError, StorageError) as error:
        faults.append(f"config.yaml is not read: {error}")
        return ""


def _facts(run: Run) -> dict[str, str]:
    return {
        "shards": f"{len(run.commits):,} done",
        "utterances": f"{sum(commit.rows for commit in run.commits):,}",
        "audio": audio_length(run.audio),
        "time": lasted(run.seconds),
        "speed": f"{run.audio / run.seconds:,.0f} x real time" if run.seconds else "",
    }


def _rejects(run: Run) -> dict[str, str]:
    total: Counter[str] = Counter()
    for commit in run.commits:
        total.update(commit.rejects)
    return {limited(reason, 100): f"{count:,}" for reason, count in total.most_common(100)}


def _failures(run: Run) -> dict[str, Any]:
    named = {
        f"{f.kind}, attempt {f.attempts}: {f.shard}": f"{f.error}: {f.message}"
        for f in run.failures
    }
    more = run.num_failures - len(run.failures)
    return named | ({f"{more:,} more": "in events.jsonl"} if more else {})
