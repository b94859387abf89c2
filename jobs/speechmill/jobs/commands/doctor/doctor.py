"""`speechmill doctor`: whether this machine, and a run on it, will work; nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from speechmill.jobs.commands.doctor import cluster, decoders, gpus, machine
from speechmill.jobs.commands.doctor.checks import Check, Examination, Finding, Result
from speechmill.jobs.commands.doctor.run import Run, ray_check, store_checks
from speechmill.jobs.config import load_config, top_level_keys
from speechmill.jobs.schemas import EnhanceConfig, EvaluateConfig, TokenizeConfig
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.text import message_of

if TYPE_CHECKING:
    from speechmill.jobs.training.config import TrainConfig

CONFIG = "config"  # the check that has failed if the configuration cannot be used
_PATIENCE = 3.0  # s to retry one storage operation: a fault should show


def examine(path: Path | None, overrides: list[str], seconds: float) -> Iterator[Finding]:
    """Yield what is found about this machine and, with a configuration, about that run.

    After `seconds` no check is waited for.
    """
    examination = Examination(seconds)
    run, unusable = None, None
    if path is not None:
        try:
            run = read_run(path, overrides)
        except InputError as error:
            cure = "" if path.is_file() else "; name a file, or none to examine this machine alone"
            unusable = Finding(CONFIG, Result.FAULT, message_of(error) + cure)
    yield from examination.one_by_one(machine_checks(run))
    if unusable:
        yield unusable
    if run is None:
        return
    yield Finding(CONFIG, Result.OK, f"{path} is one of `speechmill {run.command}`")
    yield from examination.at_once([*store_checks(run), *run.checks])
    yield from examination.one_by_one([ray_check(run), *([run.last] if run.last else [])])


def machine_checks(run: Run | None) -> list[Check]:
    """The checks that need no configuration, in an order in which each library is imported once."""
    on_ray = run is None or run.ray is not None
    checks: list[tuple[str, Callable[[], Any]]] = [
        ("python", machine.python),
        ("libraries", machine.libraries),
        ("torch", machine.torch_pair),
        ("gpu", partial(gpus.gpus, run is not None and run.needs_gpu)),
        ("system", machine.system),
        ("memory", partial(machine.memory, on_ray)),
        ("disk", machine.disks),
        ("proxies", machine.proxies),
        ("decoders", decoders.decoders),
    ]
    if run is None:
        checks.append(("ray", cluster.installed))
    return [Check(name, function) for name, function in checks]


def read_run(path: Path, overrides: list[str]) -> Run:
    """Return the run of a configuration; its keys tell the command.

    Raises `InputError` as the command would.
    """
    keys = top_level_keys(path)
    for marks, read in _OTHERS:
        if keys & marks:
            return read(path, overrides)
    from speechmill.jobs.commands.doctor.tokenize import tokenize_run

    config = load_config(TokenizeConfig, path, overrides)
    return tokenize_run(config, _impatient(config))


def _read_train(path: Path, overrides: list[str]) -> Run:
    from speechmill.jobs.commands.doctor.other_runs import train_run
    from speechmill.jobs.training.config import TrainConfig

    config = load_config(TrainConfig, path, overrides)
    return train_run(config, _impatient(config))


def _read_enhance(path: Path, overrides: list[str]) -> Run:
    from speechmill.jobs.commands.doctor.other_runs import enhance_run

    config = load_config(EnhanceConfig, path, overrides)
    return enhance_run(config, _impatient(config))


def _read_evaluate(path: Path, overrides: list[str]) -> Run:
    from speechmill.jobs.commands.doctor.other_runs import evaluate_run

    config = load_config(EvaluateConfig, path, overrides)
    return evaluate_run(config, _impatient(config))


def _impatient(config: TokenizeConfig | EnhanceConfig | EvaluateConfig | TrainConfig) -> Storage:
    """The store of a configuration, which tells of a fault soon."""
    return Storage(config.storage, min(config.storage_patience, _PATIENCE))


# Keys that only configurations of these commands have; `train` may have an enhancer too.
_OTHERS: tuple[tuple[set[str], Callable[[Path, list[str]], Run]], ...] = (
    ({"phases"}, _read_train),
    ({"enhancer"}, _read_enhance),
    ({"clips"}, _read_evaluate),
)
