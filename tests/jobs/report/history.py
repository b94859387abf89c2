"""A dataset with a history: a finished run, a killed one, rejects, and texts of an attacker."""

import json
from pathlib import Path

from speechmill.codecs import load_codec
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.run.run_log import RunLog, RunStatus
from speechmill.pipeline.run.runner import Event, EventKind, Totals
from speechmill.pipeline.shards.listing import list_shards
from tests.corpus import clip, tar_bytes
from tests.jobs.datasets import make_dataset
from tests.one_shard import tokenize_one

IMAGE = "<img src=x onerror=document.title='owned'>"
SCRIPT = "<script>document.title='owned'</script>\u202e\x1b[2J\x00'\"><b>"


def make_history(folder: Path) -> TokenDataset:
    """Three shards of 10 rows in two runs; one sample is no audio, one shard failed."""
    dataset = make_dataset(folder)
    members = [(f"{IMAGE}.flac", clip(0.7)), (f"{IMAGE}.txt", SCRIPT.encode())]
    members += [(f"b{IMAGE}.flac", clip(1.1)), ("broken<i>.flac", b"fLaC" + SCRIPT.encode())]
    (folder / "in" / "shard-9999.tar").write_bytes(tar_bytes(members))
    *_, shard = list_shards([f"{folder}/in"], dataset.storage)
    log = RunLog(dataset.root, dataset.storage, "codec: {name: 'null'}\n")
    log.record(EventKind.RUN_STARTED, shards=3)
    report = tokenize_one(shard, dataset.root, dataset.storage, load_codec("null"))
    log.record_event(Event(EventKind.RETRY, shard, 1, error=ValueError(SCRIPT)))
    log.record_event(Event(EventKind.COMMITTED, shard, 2, report))
    log.finish(RunStatus.DONE, Totals())
    dataset.storage.delete(f"{dataset.root}/runs/{log.run_id}/summary.json")
    record = {"shard": IMAGE, "error": "ShardCut", "message": SCRIPT, "attempts": IMAGE}
    dataset.storage.put(f"{dataset.root}/failed/x.json", json.dumps(record).encode())
    return dataset
