"""Fits the k-means codebook of a codec to features of shards.

Crops and their order come from the same stream as in training. So a run that is started again
continues after its last checkpoint, and on a CPU it ends with the same centroids to the last bit.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor

from speechmill.codecs.nn.kmeans import MiniBatchKMeans
from speechmill.codecs.precision import autocast, check_precision
from speechmill.codecs.recipe import CentroidRecipe
from speechmill.codecs.self_check import refuse_wrong_modules
from speechmill.jobs.display import Display
from speechmill.jobs.schemas import default_device
from speechmill.jobs.training.augment import Augment
from speechmill.jobs.training.checkpoints import (
    Checkpoints,
    refuse_difference,
    run_identity,
    saved_identity,
)
from speechmill.jobs.training.config import (
    AugmentSettings,
    CheckpointSettings,
    DataSettings,
    TrainedCodec,
)
from speechmill.jobs.training.context import step_seed
from speechmill.jobs.training.data import BatchPrefetcher, CropBatch, Cropper, batches
from speechmill.jobs.training.stream import SampleStream, StreamState
from speechmill.jobs.training.worker import crop_samples
from speechmill.pipeline.audio.resample import AudioSettings
from speechmill.pipeline.audio.samples import Limits
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.paths import PATH

_SEED_FRAMES = 3  # default of `seed_frames`, for each centroid


@dataclass
class FitConfig:
    """The settings of `speechmill fit-kmeans`."""

    # Tars, brace ranges, globs, folders, .txt manifests.
    shards: list[str] = field(default=MISSING, metadata=PATH)
    # Folder for the checkpoint, local or s3://…
    output: str = field(default=MISSING, metadata=PATH)
    codec: TrainedCodec = field(default_factory=TrainedCodec)
    frames: int = 18_000_000  # frames to fit to; 100 h at 50 Hz
    # Frames among which the first centroids are chosen; default: 3 for each centroid.
    seed_frames: int | None = None
    restarts: int = 20  # random starts; the best one is kept
    data: DataSettings = field(default_factory=lambda: DataSettings(crop_seconds=10.0))
    audio: AudioSettings = field(default_factory=AudioSettings)
    limits: Limits = field(default_factory=Limits)
    precision: str = "fp32"  # fp32 | tf32 | bf16 | fp16
    seed: int = 777
    device: str | None = None  # default: cuda if there is a GPU, else cpu
    threads: int | None = None  # of the model on a CPU; default: PyTorch's own
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)  # a step is a batch
    storage: dict[str, dict[str, Any]] = field(default_factory=dict)  # by protocol, for fsspec
    storage_patience: float = 300.0  # s to retry one operation

    def __post_init__(self) -> None:
        if min(self.frames, self.restarts) < 1 or (self.seed_frames or 1) < 1:
            raise InputError(
                f"frames is {self.frames}, restarts {self.restarts}, seed_frames "
                f"{self.seed_frames}; all must be above 0"
            )


class KMeansFit:
    """Fits centroids to batches; holds what a checkpoint restores."""

    def __init__(
        self,
        config: FitConfig,
        recipe: CentroidRecipe,
        stream: SampleStream,
        root: str,
        display: Display,
    ):
        self.config = config
        self.device = torch.device(config.device or default_device())
        check_precision(config.precision, self.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.recipe = recipe.to(self.device).eval()
        refuse_wrong_modules(
            recipe,
            recipe.points,
            recipe.sample_rate,
            recipe.hop_length,
            config.precision,
            self.device,
        )
        self.kmeans = MiniBatchKMeans(*recipe.centroids_NH.shape).to(self.device)
        self.stream = stream
        self.display = display
        self.checkpoints = Checkpoints(root, stream.storage, config.checkpoint.keep)
        self.identity = run_identity(asdict(config), None)
        self.step = 0  # batches
        self.frames = 0
        self.stream_state = StreamState()

    def run(self) -> Tensor:
        """Fit from the last checkpoint, or from the start, to the end; return centroids_NH."""
        if saved := self.checkpoints.latest():
            self._restore(saved)
        if self.frames < self.config.frames:
            with self.display.bar("fitting", self.config.frames):
                self._fit()
        return self.kmeans.centroids_ND

    def _fit(self) -> None:
        self._started, self._frames_before = time.monotonic(), self.frames
        make = partial(batches, self.stream, self._cropper(), self.config.data, self.stream_state)
        with BatchPrefetcher(make, self.config.data.prefetch) as self._data:
            if not self.frames:
                self._start_centroids()
            while self.frames < self.config.frames:
                self._update(self._next_points())
                if self.step % self.config.checkpoint.every == 0:
                    self._save()
        self._save()

    def _cropper(self) -> Cropper:
        rate, num_samples = self.recipe.sample_rate, crop_samples(self.config.data, self.recipe)
        plain = Augment(AugmentSettings())
        return Cropper(rate, num_samples, False, plain, self.config.audio, self.config.limits)

    def _start_centroids(self) -> None:
        """Choose the first centroids from some batches, then fit them to these batches."""
        wanted = self.config.seed_frames or _SEED_FRAMES * len(self.recipe.centroids_NH)
        first: list[Tensor] = []
        while sum(len(points_MH) for points_MH in first) < wanted:
            first.append(self._next_points())
        torch.manual_seed(step_seed(self.config.seed, -1))
        self.kmeans.begin(torch.cat(first), self.config.restarts)
        for points_MH in first:
            self._update(points_MH)

    def _update(self, points_MH: Tensor) -> None:
        torch.manual_seed(step_seed(self.config.seed, self.step))
        distance = self.kmeans.update(points_MH)
        self.step += 1
        self.frames += len(points_MH)
        total = self.config.frames
        seconds = time.monotonic() - self._started
        pace = (self.frames - self._frames_before) / seconds
        left = max(0, total - self.frames) / pace
        facts = f"distance {float(distance):.4g}  {pace:,.0f} frames/s, {left:,.0f} s left"
        line = f"frames {self.frames:,}/{total:,}  {facts}"
        self.display.advance("fitting", self.frames, total, facts, line)

    def _next_points(self) -> Tensor:
        """Return points_MH of the next batch that is not silent."""
        epoch = self.stream_state.epoch
        while True:
            batch = next(self._data)
            self.stream_state = batch.state
            if batch.state.epoch > epoch + 1:
                raise InputError("a whole epoch was digital silence; give shards of speech")
            points_MH = self._points(batch)
            if len(points_MH):
                return points_MH

    def _points(self, batch: CropBatch) -> Tensor:
        audio_BT = batch.audio_BT.to(self.device)
        with autocast(self.config.precision, self.device):
            points_MH = self.recipe.points(audio_BT).float()
        if not bool(points_MH.isfinite().all()):
            raise InputError(
                f"a feature of {', '.join(batch.keys)} is not finite; use precision=fp32, or drop "
                "these samples"
            )
        return points_MH

    def _save(self) -> None:
        state = {
            "identity": self.identity,
            "kmeans": self.kmeans.state_dict(),
            "frames": self.frames,
            "position": self.stream_state.as_dict(),
        }
        self.checkpoints.save(self.step, state)

    def _restore(self, checkpoint: Mapping[str, Any]) -> None:
        saved = saved_identity(checkpoint, self.config)
        refuse_difference(saved, self.identity, self.checkpoints.folder)
        self.kmeans.load_state_dict(checkpoint["kmeans"])
        self.step, self.frames = checkpoint["step"], checkpoint["frames"]
        self.stream_state = StreamState.from_dict(checkpoint["position"])
