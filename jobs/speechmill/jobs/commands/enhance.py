"""`speechmill enhance`: shards in, shards of original and enhanced audio out."""

from speechmill.jobs.config import to_yaml
from speechmill.jobs.display import ShardDisplay
from speechmill.jobs.schemas import EnhanceConfig
from speechmill.jobs.shard_run import RunOutput, run_shards
from speechmill.pipeline.enhance.api import load_enhancer
from speechmill.pipeline.enhance.paired_shards import EnhanceJob, PairedShards, pairs_identity
from speechmill.pipeline.enhance.pairs import PairSettings
from speechmill.pipeline.links import PassedOver
from speechmill.pipeline.run.runner import Totals
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage


def enhance_shards(config: EnhanceConfig, display: ShardDisplay) -> Totals:
    """Pair every shard that has no part yet.

    Raises an `InputError`, `CodecError` or `DatasetConflict` before anything is computed, and the
    error that ends a run early; shards given up on are counted in the result.
    """
    storage = Storage(config.storage, config.storage_patience)
    enhancer = load_enhancer(config.enhancer)
    display.line(f"enhancer {enhancer.name}, revision {enhancer.revision}")
    settings = PairSettings(config.audio, config.limits, config.gate)
    passed_over: list[PassedOver] = []
    shards = list_shards(config.shards, storage, passed_over)
    folder = PairedShards(storage.absolute(config.output), storage)
    job = EnhanceJob(folder.root, storage, config.enhancer, enhancer.revision, settings)
    facts = {"enhancer": config.enhancer.name, "revision": enhancer.revision}
    output = RunOutput(folder, pairs_identity(enhancer, settings), facts, to_yaml(config))
    return run_shards(shards, [output], job, config, display, passed_over)
