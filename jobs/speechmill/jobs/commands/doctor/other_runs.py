"""What the doctor checks before `train`, `enhance` and `evaluate`, beside what all need."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from speechmill.codecs import load_codec
from speechmill.jobs.commands.doctor.checks import ALL_THE_TIME, Check, Said, ok, warning
from speechmill.jobs.commands.doctor.run import SLOW_LISTING, Run
from speechmill.jobs.commands.evaluate import check_codecs
from speechmill.jobs.schemas import EnhanceConfig, EvaluateConfig, default_device
from speechmill.jobs.training.config import TrainConfig
from speechmill.pipeline.enhance.api import load_enhancer
from speechmill.pipeline.enhance.paired_shards import PairedShards, pairs_identity
from speechmill.pipeline.enhance.pairs import PairSettings
from speechmill.pipeline.imports import load_extra
from speechmill.pipeline.quality import RATE
from speechmill.pipeline.quality.scoring import Scorer
from speechmill.pipeline.quality.testset import read_test_set
from speechmill.pipeline.quality.transcript_errors import text_normalizer
from speechmill.pipeline.storage import Storage

_LATE = warning(
    "a model was not fetched and loaded in the time that the doctor has; the run goes on with it"
)


def train_run(config: TrainConfig, storage: Storage) -> Run:
    """Return what the doctor checks of a configuration of `train`."""
    from speechmill.jobs.commands.train import check_job, job_of
    from speechmill.jobs.training.worker import build_recipe

    in_process = config.workers.count == 0

    def recipe() -> Iterator[Said]:
        built = build_recipe(config)
        source = config.codec.checkpoint or "its published or random weights"
        yield ok(f"{config.codec.name} from {source}, phases {', '.join(built.phases)}")

    def resumed() -> Iterator[Said]:
        root = storage.absolute(config.output)
        check_job(job_of(config, run.shards), root, storage)
        yield ok(f"{root} is new, or of the same run")

    run = Run(
        command="train",
        storage=storage,
        inputs=config.shards,
        output=config.output,
        ray=None if in_process else config.ray,
        num_gpus=0.0 if in_process else config.workers.num_gpus,
    )
    run.checks = [
        Check("codec", recipe, (), ALL_THE_TIME, _LATE),
        Check("resume", resumed, ("shards", "output"), ALL_THE_TIME, _LATE),
    ]
    return run


def enhance_run(config: EnhanceConfig, storage: Storage) -> Run:
    """Return what the doctor checks of a configuration of `enhance`."""

    def enhancer() -> Iterator[Said]:
        loaded = load_enhancer(config.enhancer)
        loaded.enhance(np.zeros(loaded.sample_rate, np.float32))
        yield ok(f"{loaded.name}, revision {loaded.revision}, enhanced a second of silence")

    def resumed() -> Iterator[Said]:
        folder = PairedShards(storage.absolute(config.output), storage)
        settings = PairSettings(config.audio, config.limits, config.gate)
        if found := folder.read_identity():
            folder.refuse_other(found, pairs_identity(load_enhancer(config.enhancer), settings))
        todo = folder.todo(run.shards)
        yield ok(f"{folder.root}: {len(todo):,} of {len(run.shards):,} shards to do")

    run = Run(
        command="enhance",
        storage=storage,
        inputs=config.shards,
        output=config.output,
        ray=config.ray if config.workers.count != 0 else None,
        num_gpus=config.workers.num_gpus,
        workers=config.workers,
    )
    run.checks = [
        Check("enhancer", enhancer, (), ALL_THE_TIME, _LATE),
        Check("resume", resumed, ("shards", "output", "enhancer"), ALL_THE_TIME, _LATE),
    ]
    return run


def evaluate_run(config: EvaluateConfig, storage: Storage) -> Run:
    """Return what the doctor checks of a configuration of `evaluate`."""
    device = config.device or default_device()

    def codecs() -> Iterator[Said]:
        check_codecs(config)
        for label, codec in config.codecs.items():
            info = load_codec(**codec.loader_options(device)).info
            yield ok(f"{label}: {info.title}, revision {info.revision}")

    def clips() -> Iterator[Said]:
        found, rejects = read_test_set(config.test_set(), config.audio, config.limits, storage)
        yield ok(f"{len(found):,} clips, {len(rejects):,} left out")

    return Run(
        command="evaluate",
        storage=storage,
        inputs=config.clips,
        output=config.output,
        ray=None,
        num_gpus=float(device.startswith("cuda")),
        reads_shards=False,
        checks=[
            Check("codecs", codecs, (), ALL_THE_TIME, _LATE),
            Check("metrics", partial(_metrics, config), (), ALL_THE_TIME, _LATE),
            Check("clips", clips, ("input",), ALL_THE_TIME, SLOW_LISTING),
        ],
    )


def _metrics(config: EvaluateConfig) -> Iterator[Said]:
    """Compute each metric of a second of noise, which imports the packages that it needs."""
    noise_T = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    metrics = config.metrics
    scores = Scorer(metrics.signal, metrics.dnsmos, metrics.distillmos)(noise_T, noise_T)
    if metrics.speaker or metrics.recognizer:
        load_extra("transformers", "evaluate")
    text_normalizer(metrics.normalizer)
    yield ok(", ".join(scores) or "none")
