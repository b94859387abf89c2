"""All that `speechmill fit-kmeans` can be told."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from speechmill.jobs.training.config import CheckpointSettings, TrainedCodec
from speechmill.jobs.training.data import DataSettings
from speechmill.pipeline.audio.decoders import Limits
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.paths import PATH


@dataclass
class FitConfig:
    """All that `speechmill fit-kmeans` can be told."""

    shards: list[str] = field(
        default=MISSING, metadata=PATH
    )  # tars, brace ranges, globs, folders, .txt manifests
    output: str = field(
        default=MISSING, metadata=PATH
    )  # folder for the checkpoint, local or s3://…
    codec: TrainedCodec = field(default_factory=TrainedCodec)
    frames: int = 18_000_000  # to fit to; 100 h at 50 Hz
    seed_frames: int | None = None  # from which centroids begin; default: 3 for each
    restarts: int = 20  # of the beginning, of which the best is taken
    data: DataSettings = field(default_factory=lambda: DataSettings(crop_seconds=10.0))
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    precision: str = "fp32"
    seed: int = 777
    device: str | None = None  # default: cuda where there is one, else cpu
    threads: int | None = None  # of the model on a CPU; default: PyTorch's own
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)  # every: batches
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec

    def __post_init__(self) -> None:
        if min(self.frames, self.restarts) < 1 or (self.seed_frames or 1) < 1:
            raise InputError(
                f"frames is {self.frames}, restarts {self.restarts}, seed_frames "
                f"{self.seed_frames}; all must be above 0"
            )
