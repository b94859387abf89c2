"""All that `speechmill train` can be told."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from speechmill.codecs.registry import UNTRAINED, file_arguments
from speechmill.jobs.schemas import file_options
from speechmill.jobs.training.augment import AugmentSettings
from speechmill.jobs.training.data import DataSettings
from speechmill.pipeline.audio.decoders import Limits
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.enhance.api import EnhancerSettings
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.paths import PATH, path_entries, path_or
from speechmill.pipeline.run.job import RaySettings

ENHANCEMENT = ("none", "offline", "online", "clean")
SCHEDULES = ("constant", "cosine", "exponential")


@dataclass
class TrainedCodec:
    """Which codec is trained, and from which weights."""

    name: str = MISSING
    # Default: the published weights, if any; "untrained": random.
    checkpoint: str | None = field(default=None, metadata=path_or(UNTRAINED))
    # JSON of an architecture of your own.
    config: str | None = field(default=None, metadata=PATH)
    # More arguments of this codec's recipe.
    options: dict[str, Any] = field(default_factory=dict, metadata=path_entries(file_options))


@dataclass
class PhaseSettings:
    """One phase of a recipe; the optimizer begins anew in each."""

    steps: int = MISSING
    lr: float = 2e-4
    warmup: int = 0  # steps of a linear rise
    schedule: str = "constant"
    final_lr: float = 0.0  # of cosine, as a part of lr
    decay: float = 0.999875  # of exponential
    decay_every: int = 5000  # steps between two decays
    betas: list[float] | None = None  # of AdamW in this phase; default: those of optimizer
    adversarial_from: int | None = None  # step of the phase at which discriminators come in

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule is {self.schedule!r}; use one of {', '.join(SCHEDULES)}")


@dataclass
class OptimizerSettings:
    """AdamW, for the generator and for the discriminators."""

    betas: list[float] = field(default_factory=lambda: [0.5, 0.9])
    eps: float = 1e-9
    weight_decay: float = 0.0
    clip_grad: float | None = 1.0  # norm
    ema_decay: float = 0.999  # of the averaged weights, which are what is kept
    max_skipped: int = 10  # steps one after the other without a finite gradient


@dataclass
class DiscriminatorSettings:
    """Built where a phase has `adversarial_from`."""

    periods: list[int] = field(default_factory=lambda: [2, 3, 5, 7, 11])
    ffts: list[int] = field(default_factory=lambda: [1024, 512, 256, 128])
    period_channels: list[int] = field(default_factory=lambda: [32, 128, 512, 1024, 1024])
    band_channels: int = 32


@dataclass
class ValidationSettings:
    """Held-out clips: the first of these shards, each from its start."""

    shards: list[str] = field(default_factory=list, metadata=PATH)
    every: int = 1000  # steps
    clips: int = 32
    seconds: float = 4.0
    listen: int = 4  # reconstructions written as audio


@dataclass
class CheckpointSettings:
    """When the run's state is written, and how much of it is kept."""

    every: int = 1000  # steps
    keep: int = 3


@dataclass
class LogSettings:
    """What is shown while training."""

    every: int = 10  # steps


@dataclass
class TrainWorkers:
    """One process for each GPU; `count: 0` trains in this process, without Ray."""

    count: int | None = None  # default: one for each GPU of the cluster, or 1 where num_gpus is 0
    min_count: int | None = None  # fewer will do when nodes are lost; default: all are needed
    num_gpus: float = 1.0
    num_cpus: float = 1.0
    threads: int | None = None  # of each process; default: num_cpus
    max_failures: int = 10  # workers that may be lost before the run gives up


def _file_settings(config: "TrainConfig") -> frozenset[str]:
    """Return the settings of the codec's recipe that are paths."""
    return file_arguments(config.codec.name)[1]


@dataclass
class TrainConfig:
    """All that `speechmill train` can be told."""

    shards: list[str] = field(default=MISSING, metadata=PATH)
    output: str = field(default=MISSING, metadata=PATH)  # run directory, local or s3://…
    codec: TrainedCodec = field(default_factory=TrainedCodec)
    phases: dict[str, PhaseSettings] = MISSING  # in order; `speechmill train` names the known ones
    # Settings of this codec's recipe, see docs/recipes.md.
    recipe: dict[str, Any] = field(default_factory=dict, metadata=path_entries(_file_settings))
    enhancement: str = "none"  # offline: from the shards; online: in the loop; clean: before noise
    enhancer: EnhancerSettings | None = None  # for online
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    discriminators: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    precision: str = "fp32"  # or bf16
    seed: int = 777
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    log: LogSettings = field(default_factory=LogSettings)
    workers: TrainWorkers = field(default_factory=TrainWorkers)
    ray: RaySettings = field(default_factory=RaySettings)
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec

    def __post_init__(self) -> None:
        if self.enhancement not in ENHANCEMENT:
            raise InputError(
                f"enhancement is {self.enhancement!r}; use one of {', '.join(ENHANCEMENT)}"
            )
