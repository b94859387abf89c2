"""The settings of `speechmill train`: every key with its type and its default."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING

from speechmill.codecs.api import PRECISIONS
from speechmill.codecs.registry import UNTRAINED, file_arguments
from speechmill.jobs.schemas import default_device, file_options
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.enhance.api import EnhancerSettings
from speechmill.pipeline.errors import InputError, check_choice
from speechmill.pipeline.paths import PATH, path_entries, path_or
from speechmill.pipeline.run.job import RaySettings


class Enhancement(StrEnum):
    """Where the enhanced audio of a crop comes from."""

    NONE = "none"
    OFFLINE = "offline"  # from the shards, as `speechmill enhance` writes them
    ONLINE = "online"  # from the enhancer, in the training process
    CLEAN = "clean"  # the crop before noise and room were added


class OnCollapse(StrEnum):
    """What a run does when its codebooks or its latent are no longer used."""

    WARN = "warn"
    STOP = "stop"


class Schedule(StrEnum):
    """How the learning rate changes during a phase, after the warmup."""

    CONSTANT = "constant"
    COSINE = "cosine"
    EXPONENTIAL = "exponential"


@dataclass
class TrainedCodec:
    """Which codec is trained, and from which weights."""

    name: str = MISSING  # `speechmill codecs` lists them
    # Default: the published weights, if any; "untrained": random.
    checkpoint: str | None = field(default=None, metadata=path_or(UNTRAINED))
    # JSON of an architecture of your own.
    config: str | None = field(default=None, metadata=PATH)
    # More arguments of this codec's recipe.
    options: dict[str, Any] = field(default_factory=dict, metadata=path_entries(file_options))


@dataclass
class PhaseSettings:
    """One phase of a recipe; each phase has a new optimizer."""

    steps: int = MISSING
    lr: float = 2e-4  # the highest, after the warmup
    warmup: int = 0  # steps of a linear rise
    schedule: str = "constant"  # constant | cosine | exponential
    final_lr: float = 0.0  # of cosine, as a share of lr
    decay: float = 0.999875  # of exponential: factor of one decay
    decay_every: int = 5000  # steps between two decays
    betas: list[float] | None = None  # of AdamW in this phase; default: those of optimizer
    adversarial_from: int | None = None  # step of the phase at which discriminators start

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, Schedule)


@dataclass
class DataSettings:
    """How samples become batches."""

    crop_seconds: float = 2.0
    batch_size: int = 16  # crops in a step of one worker
    shuffle_buffer: int = 1000  # encoded samples from which the next one is chosen
    prefetch: int = 4  # batches prepared ahead of the step
    threads: int = 2  # threads that decode

    def __post_init__(self) -> None:
        sizes = (self.crop_seconds, self.batch_size, self.shuffle_buffer, self.threads)
        if min(sizes) <= 0 or self.prefetch < 0:
            raise InputError(f"every size of data must be above 0: {self}")


@dataclass
class MixSettings:
    """Which recordings are mixed in, and how often."""

    shards: list[str] = field(default_factory=list, metadata=PATH)
    probability: float = 0.0  # of a crop
    pool_mb: float = 256.0  # of decoded recordings that every worker keeps in memory

    def __post_init__(self) -> None:
        if self.probability and not self.shards:
            raise InputError(
                f"a section of augment has probability {self.probability}, but no shards; name "
                "those to mix in"
            )


@dataclass
class NoiseSettings(MixSettings):
    """Noise, at a random ratio from `snr_db`."""

    snr_db: list[float] = field(default_factory=lambda: [0.0, 25.0])  # [low, high]


@dataclass
class AugmentSettings:
    """Changes to the crops; none by default."""

    level_db: list[float] = field(default_factory=list)  # [low, high] of the RMS; 0 is full scale
    noise: NoiseSettings = field(default_factory=NoiseSettings)
    rooms: MixSettings = field(default_factory=MixSettings)  # impulse responses


@dataclass
class OptimizerSettings:
    """AdamW, for the generator and for the discriminators."""

    betas: list[float] = field(default_factory=lambda: [0.5, 0.9])
    eps: float = 1e-9
    weight_decay: float = 0.0
    clip_grad: float | None = 1.0  # the largest norm of the gradient; null: no limit
    ema_decay: float = 0.999  # of the averaged weights, which are the result
    max_skipped: int = 10  # the run ends after so many steps in a row without a finite gradient


@dataclass
class DiscriminatorSettings:
    """Used if a phase has `adversarial_from`."""

    periods: list[int] = field(default_factory=lambda: [2, 3, 5, 7, 11])
    ffts: list[int] = field(default_factory=lambda: [1024, 512, 256, 128])
    period_channels: list[int] = field(default_factory=lambda: [32, 128, 512, 1024, 1024])
    band_channels: int = 32
    lr_factor: float = 1.0  # of the learning rate of the phase


@dataclass
class ValidationSettings:
    """Held-out clips: the first of these shards, each from its start."""

    shards: list[str] = field(default_factory=list, metadata=PATH)
    every: int = 1000  # steps
    clips: int = 32
    seconds: float = 4.0  # of each clip
    listen: int = 4  # reconstructions written as audio

    def __post_init__(self) -> None:
        _check_every("validation", self.every)


@dataclass
class CheckpointSettings:
    """How often the state of the run is written, and how many checkpoints are kept."""

    every: int = 1000  # steps
    keep: int = 3  # the newest

    def __post_init__(self) -> None:
        _check_every("checkpoint", self.every)


@dataclass
class LogSettings:
    """The reports of progress."""

    every: int = 10  # steps

    def __post_init__(self) -> None:
        _check_every("log", self.every)


@dataclass
class TrainWorkers:
    """One process for each GPU; `count: 0` trains in this process, without Ray."""

    count: int | None = None  # default: one for each GPU of the cluster, or 1 if num_gpus is 0
    min_count: int | None = None  # workers to continue with after a loss; default: all
    # Of each worker; 0 trains on the CPU. In this process: above 0 uses its GPU, if there is one.
    num_gpus: float = 1.0
    num_cpus: float = 1.0  # of each worker
    threads: int | None = None  # CPU threads of each worker; default: num_cpus
    max_failures: int = 10  # lost workers after which the run gives up

    def __post_init__(self) -> None:
        if self.count is not None and self.count < 0:
            raise InputError(
                f"workers.count is {self.count}; give the number of workers, or 0 to train in this "
                "process without Ray"
            )

    @property
    def on_gpus(self) -> bool:
        """Whether the run trains on GPUs; in this process only if there is one."""
        return self.num_gpus > 0 and (self.count != 0 or default_device() == "cuda")


def _file_settings(config: "TrainConfig") -> frozenset[str]:
    """Return the settings of the codec's recipe that are paths."""
    return file_arguments(config.codec.name)[1]


@dataclass
class TrainConfig:
    """The settings of `speechmill train`."""

    # Tars, brace ranges, globs, folders, .txt manifests.
    shards: list[str] = field(default=MISSING, metadata=PATH)
    output: str = field(default=MISSING, metadata=PATH)  # run directory, local or s3://…
    codec: TrainedCodec = field(default_factory=TrainedCodec)
    # By name, in the order of the recipe, see docs/guide/recipes.md; some may be left out.
    phases: dict[str, PhaseSettings] = MISSING
    # Settings of this codec's recipe, see docs/guide/recipes.md.
    recipe: dict[str, Any] = field(default_factory=dict, metadata=path_entries(_file_settings))
    enhancement: str = "none"  # none | offline | online | clean
    enhancer: EnhancerSettings | None = None  # for enhancement: online
    data: DataSettings = field(default_factory=DataSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    discriminators: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    # auto | fp32 | tf32 | bf16 | fp16; auto: tf32 on GPUs, fp32 on CPUs.
    precision: str = "auto"
    seed: int = 777
    # warn | stop; when codebooks or latent are no longer used, see docs/guide/fine-tune.md.
    on_collapse: str = "warn"
    validation: ValidationSettings = field(default_factory=ValidationSettings)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    log: LogSettings = field(default_factory=LogSettings)
    workers: TrainWorkers = field(default_factory=TrainWorkers)
    ray: RaySettings = field(default_factory=RaySettings)
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec
    storage_patience: float = 300.0  # s to retry one operation

    def __post_init__(self) -> None:
        if sum(phase.steps for phase in self.phases.values()) < 1:
            raise InputError("the phases have 0 steps together; give phases.<name>.steps")
        if self.precision == "auto":
            self.precision = "tf32" if self.workers.on_gpus else "fp32"
        check_choice("precision", self.precision, ("auto", *PRECISIONS))
        check_choice("enhancement", self.enhancement, Enhancement)
        check_choice("on_collapse", self.on_collapse, OnCollapse)
        online = self.enhancement == Enhancement.ONLINE
        if online and self.enhancer is None:
            raise InputError(
                "enhancement is online, but no enhancer is named; set enhancer.name, for example "
                "enhancer.name=spectral-gating"
            )
        if self.enhancer is not None and not online:
            raise InputError(
                f"enhancer is set, but enhancement is {self.enhancement}; set enhancement=online, "
                "or leave enhancer out"
            )


def _check_every(section: str, every: int) -> None:
    if every < 1:
        raise InputError(f"{section}.every is {every}; give a number of steps, at least 1")
