"""`speechmill fit-kmeans`: the semantic codebook of a codec from the features of its shards.

    OUTPUT/checkpoint.safetensors   the codec with its centroids, the rest untrained
    OUTPUT/config.json              its configuration, tied to the model behind the features
    OUTPUT/config.yaml versions.json checkpoints/

Crops and their order come from the same stream as in training, so a run that is started again goes
on where its last checkpoint was; on a CPU it ends with the same centroids, to the last bit.
"""

import json
import time
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from speechmill.codecs import load_recipe
from speechmill.codecs.nn.kmeans import MiniBatchKMeans
from speechmill.codecs.precision import autocast, check_precision
from speechmill.codecs.recipe import CentroidRecipe
from speechmill.jobs.commands.train import describe_run, settings_of
from speechmill.jobs.display import LINE_SECONDS, Display
from speechmill.jobs.training.augment import Augment, AugmentSettings
from speechmill.jobs.training.checkpoints import Checkpoints, refuse_difference, saved_identity
from speechmill.jobs.training.data import (
    Batch,
    Cropper,
    Position,
    Prefetch,
    SampleStream,
    batches,
    restore,
)
from speechmill.jobs.training.kmeans_config import FitConfig
from speechmill.jobs.training.trainer import step_seed
from speechmill.jobs.training.worker import crop_samples
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.listing import list_shards
from speechmill.pipeline.storage import Storage, join

_SEEDS = 3  # frames for each centroid, from which it may begin


def fit_kmeans(config: FitConfig, display: Display) -> None:
    """Fit the centroids and write them; run it again to resume.

    Raises an `InputError` or `CodecError` for what cannot be fitted before anything is computed.
    """
    storage = Storage(config.storage)
    shards = list_shards(config.shards, storage)
    torch.manual_seed(config.seed)
    recipe = _recipe(config)
    root = storage.absolute(config.output)
    stream = SampleStream(
        shards, storage, config.seed, config.data.shuffle_buffer, limits=config.limits
    )
    fit = Fit(config, recipe, stream, root, display)
    describe_run(config, root, storage)
    count, width = recipe.centroids_NH.shape
    display.line(
        f"codec    {config.codec.name}: {count} centroids of {width} dimensions, on {fit.device}"
    )
    display.line(f"shards   {len(shards)}")
    fit.run()
    fit.write()
    checkpoint, sizes = join(root, "checkpoint.safetensors"), join(root, "config.json")
    display.done(f"{checkpoint} and config.json; train with both", [checkpoint, sizes], storage)


def _recipe(config: FitConfig) -> CentroidRecipe:
    codec = config.codec
    recipe = load_recipe(
        codec.name, checkpoint=codec.checkpoint, config=codec.config, **codec.options
    )
    if not isinstance(recipe, CentroidRecipe):
        raise InputError(f"{codec.name} has no codebook of k-means centroids; HASRD has")
    if bool(recipe.centroids_NH.any()):
        raise InputError(
            f"{codec.checkpoint} holds centroids already, and what was trained behind them would "
            "not fit new ones; set codec.checkpoint to untrained"
        )
    recipe.fitted_config()
    return recipe


class Fit:
    """Batches into centroids."""

    def __init__(
        self,
        config: FitConfig,
        recipe: CentroidRecipe,
        stream: SampleStream,
        root: str,
        display: Display,
    ):
        self.config = config
        device = config.device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(device)
        check_precision(config.precision, self.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        self.recipe = recipe.to(self.device).eval()
        self.kmeans = MiniBatchKMeans(*recipe.centroids_NH.shape).to(self.device)
        self.stream = stream
        self.storage = stream.storage
        self.root = root
        self.display = display
        self.checkpoints = Checkpoints(root, self.storage, config.checkpoint.keep)
        self.identity = settings_of(config)
        self.step = 0  # batches
        self.frames = 0
        self.position = Position()
        self._last_line = 0.0

    def run(self) -> None:
        """Fit from the last checkpoint, or from the start, to the end."""
        if state := self.checkpoints.latest():
            self._restore(state)
        if self.frames >= self.config.frames:
            return
        self._started, self._had = time.monotonic(), self.frames
        make = partial(batches, self.stream, self._cropper(), self.config.data, self.position)
        with Prefetch(make, self.config.data.prefetch) as self._data:
            if not self.frames:
                self._begin()
            while self.frames < self.config.frames:
                self._update(self._next_points())
                if self.step % self.config.checkpoint.every == 0:
                    self._save()
        self._save()

    def write(self) -> None:
        """Write the codec's checkpoint with the centroids in it, and its configuration."""
        self.recipe.centroids_NH.copy_(self.kmeans.centroids_ND)
        state = self.recipe.weights_for_inference()
        weights = {name: value.detach().cpu().contiguous() for name, value in state.items()}
        facts = json.dumps({"codec": self.config.codec.name, "frames": self.frames})
        data = save(weights, {"speechmill": facts})
        sizes = json.dumps(self.recipe.fitted_config(), indent=1)
        self.storage.put(join(self.root, "config.json"), sizes.encode())
        self.storage.put(join(self.root, "checkpoint.safetensors"), data)

    def _cropper(self) -> Cropper:
        rate, num_samples = self.recipe.sample_rate, crop_samples(self.config.data, self.recipe)
        plain = Augment(AugmentSettings())
        return Cropper(rate, num_samples, False, plain, self.config.audio, self.config.limits)

    def _begin(self) -> None:
        """Choose where the centroids begin, then fit them to what they were chosen from."""
        wanted = self.config.seed_frames or _SEEDS * len(self.recipe.centroids_NH)
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
        now = time.monotonic()
        if now - self._last_line > LINE_SECONDS or self.frames >= self.config.frames:
            self._last_line = now
            pace = (self.frames - self._had) / (now - self._started)
            left = max(0, self.config.frames - self.frames) / pace
            self.display.line(
                f"frames {self.frames:,}/{self.config.frames:,}  distance {float(distance):.4g}  "
                f"{pace:,.0f} frames/s, {left:,.0f} s left"
            )

    def _next_points(self) -> Tensor:
        """Return points_MH of the next batch that has any."""
        epoch = self.position.epoch
        while True:
            batch = next(self._data)
            self.position = batch.position
            if batch.position.epoch > epoch + 1:
                raise InputError("a whole epoch was digital silence; give shards of speech")
            points_MH = self._points(batch)
            if len(points_MH):
                return points_MH

    def _points(self, batch: Batch) -> Tensor:
        audio_BT = torch.from_numpy(batch.audio_BT).to(self.device)
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
            "position": self.position.as_dict(),
        }
        self.checkpoints.save(self.step, state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        saved = saved_identity(state, self.config)
        refuse_difference(saved, self.identity, self.checkpoints.folder)
        self.kmeans.load_state_dict(state["kmeans"])
        self.step, self.frames = state["step"], state["frames"]
        self.position = restore(state["position"])
