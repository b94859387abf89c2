"""What the doctor checks before `speechmill tokenize`, beside what all commands need."""

from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from speechmill.codecs import CodecInfo, codec_packages
from speechmill.codecs.errors import CodecError
from speechmill.jobs.commands.doctor import speed
from speechmill.jobs.commands.doctor.checks import ALL_THE_TIME, Check, Said, ok, warning
from speechmill.jobs.commands.doctor.run import SLOW_LISTING, Run
from speechmill.jobs.commands.doctor.weights import weights, weights_cure
from speechmill.jobs.commands.plan.plan import Listed, list_work
from speechmill.jobs.config import for_each_codec
from speechmill.jobs.report.wording import counted
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.audio.recordings import Recordings
from speechmill.pipeline.storage import Storage

_LATE = warning(
    "the codec was not fetched and loaded in the time that the doctor has; the run goes on with it"
)


def tokenize_run(config: TokenizeConfig, storage: Storage) -> Run:
    """Return what the doctor checks of a configuration of `tokenize`."""
    run = Run(
        command="tokenize",
        storage=storage,
        inputs=config.shards,
        output=config.output,
        ray=config.ray if config.workers.count != 0 else None,
        num_gpus=config.workers.num_gpus,
        workers=config.workers,
        packages=_packages(config),
    )
    work = _Work(config, run)
    singles = for_each_codec(config)
    codecs = [_codec_check(single, run, several=len(singles) > 1) for single in singles]
    run.checks = [
        *codecs,
        Check("settings", work.settings, tuple(check.name for check in codecs)),
        Check(
            "dataset", work.dataset, ("shards", "output", "settings"), ALL_THE_TIME, SLOW_LISTING
        ),
    ]
    needs = ("gpu", "settings", "dataset", "ray")
    run.last = Check("speed", work.speed, needs, seconds=ALL_THE_TIME, late=speed.LATE)
    return run


def _codec_check(config: TokenizeConfig, run: Run, several: bool) -> Check:
    name = config.codec.name or "null" if several else "codec"
    on_device = run.is_here and (config.codec_options()["device"] == "cpu" or _has_gpu())
    load = partial(weights, config, on_device)
    return Check(name, load, seconds=ALL_THE_TIME, late=_LATE, cures=weights_cure)


def _packages(config: TokenizeConfig) -> tuple[str, ...]:
    """As `TokenizeJob` has them; the check of the weights says which codec is not known."""
    found = config.decode_settings().packages
    for single in for_each_codec(config):
        with suppress(CodecError):
            found.update(codec_packages(single.codec_options()["name"]))
    return tuple(sorted(found))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


class _Work:
    """Checks that hand on what they found."""

    def __init__(self, config: TokenizeConfig, run: Run):
        self._config, self._run = config, run
        self._codecs: list[CodecInfo] = []
        self._listed: list[Listed] = []

    def settings(self) -> Iterator[Said]:
        """Build what cuts, filters and scores recordings, which needs optional packages."""
        self._codecs = [single.codec.info() for single in for_each_codec(self._config)]
        decoding = self._config.decode_settings()
        Recordings(decoding, self._codecs)
        if self._config.audio.resampler == "torchaudio":
            import torchaudio  # noqa: F401
        score = f", filters.quality={decoding.filters.quality}" if decoding.filters.quality else ""
        yield ok(
            f"segment.by={decoding.segment.by}, resampler {self._config.audio.resampler}{score}"
        )

    def dataset(self) -> Iterator[Said]:
        """Compare the run with what exists at the output."""
        configs = for_each_codec(self._config)
        self._listed = list_work(configs, self._codecs, self._run.shards, self._run.storage)
        for listed in self._listed:
            count, todo = len(listed.shards), len(listed.todo)
            if listed.is_new:
                yield ok(f"{listed.dataset.root} is new, {counted(count, 'shard')} to do")
            else:
                yield ok(
                    f"{listed.dataset.root} is of the same codec and settings, {todo:,} of "
                    f"{counted(count, 'shard')} to do"
                )

    def speed(self) -> Iterator[Said]:
        return speed.speed(self._config, self._listed, self._run.storage)
