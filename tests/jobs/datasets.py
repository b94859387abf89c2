"""A small dataset with the log of its run, made in this process."""

from pathlib import Path

from speechmill.codecs import load_codec
from speechmill.jobs.config import from_overrides, to_yaml
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.dataset.layout import TokenDataset, dataset_identity
from speechmill.pipeline.run.run_log import RunLog, RunStatus
from speechmill.pipeline.run.runner import Event, EventKind, Totals
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage
from tests.corpus import write_corpus
from tests.one_shard import tokenize_one


def make_dataset(folder: Path, codec_name: str = "null") -> TokenDataset:
    """Two shards of four clips below `folder/in`, tokenized into `folder/out`."""
    storage = Storage()
    write_corpus(folder / "in", num_shards=2, clips_per_shard=4, seconds=0.4)
    dataset = TokenDataset(str(folder / "out"), storage)
    wanted = [f"shards=[{folder}/in]", f"output={dataset.root}", f"codec.name='{codec_name}'"]
    config = from_overrides(TokenizeConfig, wanted)
    codec = load_codec(codec_name)
    dataset.claim(dataset_identity(codec.info, "fp32", config.decode_settings()))
    log, totals = RunLog(dataset.root, storage, to_yaml(config)), Totals()
    log.record(EventKind.RUN_STARTED)
    for shard in list_shards(config.shards, storage):
        report = tokenize_one(shard, dataset.root, storage, codec)
        event = Event(EventKind.COMMITTED, shard, 1, report)
        totals.add(event)
        log.record_event(event)
    log.finish(RunStatus.DONE, totals)
    return dataset
