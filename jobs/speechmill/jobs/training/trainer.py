"""The training loop of one worker: steps, phases, validation, checkpoints.

A step depends on the weights, the worker's batch and a generator seeded by (seed, step, rank), so
a run that is resumed from a checkpoint repeats the uninterrupted one to the last bit.
"""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from speechmill.codecs.discriminators import Discriminators
from speechmill.codecs.losses import GAN_LOSSES, feature_matching
from speechmill.codecs.precision import autocast
from speechmill.codecs.recipe import Recipe, StepOutput, TrainingBatch
from speechmill.jobs.training.checkpoints import Checkpoints
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.data import (
    Batch,
    Cropper,
    Position,
    Prefetch,
    SampleStream,
    Share,
    batches,
    restore,
)
from speechmill.jobs.training.ema import Average
from speechmill.jobs.training.logging import Curves
from speechmill.jobs.training.optimizer import adamw, descend
from speechmill.jobs.training.schedule import Phase, plan
from speechmill.jobs.training.validation import Validation
from speechmill.pipeline.errors import TrainingDiverged
from speechmill.pipeline.storage import join

_CPU = torch.device("cpu")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker is."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = _CPU

    @property
    def leads(self) -> bool:
        return self.rank == 0


@dataclass(frozen=True, slots=True)
class Progress:
    """What a run tells whoever started it."""

    step: int
    total: int
    phase: str
    values: dict[str, float]
    kind: str = "step"  # or validation


@dataclass
class Best:
    """The best validation of the phase."""

    phase: str = ""
    step: int = 0
    mel: float = float("inf")


class Trainer:
    """Carries a recipe through its phases."""

    def __init__(
        self,
        config: TrainConfig,
        recipe: Recipe,
        stream: SampleStream,
        cropper: Cropper,
        place: Place,
        identity: dict[str, Any],
        report: Callable[[Progress], None],
    ):
        self.config = config
        self.recipe = recipe.to(place.device).train()
        self.stream = stream
        self.cropper = cropper
        self.place = place
        self.identity = identity
        self.report = report
        self.storage = stream.storage
        self.root = self.storage.absolute(config.output)
        self.checkpoints = Checkpoints(self.root, self.storage, config.checkpoint.keep)
        self.phases = plan(config.phases)
        self.total = self.phases[-1].end
        self.step = 0
        self.position = Position()
        self.skipped: list[list[str]] = []  # keys of the steps without a finite gradient, in a row
        self.num_skipped = 0
        self.best = Best()
        self.judges: Discriminators | None = None
        if any(phase.settings.adversarial_from is not None for phase in self.phases):
            self.judges = _discriminators(config).to(place.device)
        self.validation: Validation | None = None
        if config.validation.shards and place.leads:
            self.validation = Validation(config, recipe, self.storage)

    def run(self) -> None:
        """Train from the last checkpoint, or from the start, to the end."""
        state = self.checkpoints.latest()
        if state:
            self._restore(state)
        self.curves = Curves(self.root, self.storage, self.step) if self.place.leads else None
        make = partial(batches, self.stream, self.cropper, self.config.data, self.position)
        with Prefetch(make, self.config.data.prefetch) as self.data:
            for phase in self.phases:
                if self.step < phase.end:
                    self._train(phase, state if state and self.step > phase.first else None)
        if self.curves:
            self.curves.close()

    def _train(self, phase: Phase, state: Mapping[str, Any] | None) -> None:
        self._begin(phase, state)
        while self.step < phase.end:
            self._step(phase)
            done = self.step == phase.end
            if done:
                self.average.apply()
            if done or self.step % self.config.validation.every == 0:
                self._validate(phase)
            if done or self.step % self.config.checkpoint.every == 0:
                self._save(phase)

    def _begin(self, phase: Phase, state: Mapping[str, Any] | None) -> None:
        """Set up what lives as long as a phase: which weights move, optimizers, average."""
        if state is None:
            self.recipe.begin_phase(phase.name)
            self.best = Best(phase.name)
            with self._seeded(-1 - phase.first), self._computing():
                while self.recipe.num_init_frames():
                    self.recipe.initialize_from(self._tensors(self._next_batch()))
        else:
            self.recipe.begin_phase(phase.name)
            self.recipe.load_state_dict(state["recipe"])
        self.model = self._parallel(self.recipe)
        adam = self.config.optimizer
        adam = replace(adam, betas=phase.settings.betas or adam.betas)
        self.optimizer = adamw(self.recipe.trainable_parameters().values(), adam)
        self.average = Average(self.recipe, self.config.optimizer.ema_decay)
        if self.judges:
            self.judge = self._parallel(self.judges)
            self.judge_optimizer = adamw(self.judges.parameters(), adam)
        if state is not None:
            self.optimizer.load_state_dict(state["optimizer"])
            self.average.load(state["average"])
            if self.judges:
                self.judge_optimizer.load_state_dict(state["judge_optimizer"])

    def _step(self, phase: Phase) -> None:
        batch = self._next_batch()
        lr = phase.lr(self.step)
        with self._seeded(self.step):
            values = self._update(self._tensors(batch), lr, phase.adversarial(self.step))
        self.step += 1
        self._heed_skipped(batch, values)
        if self.curves:
            self.curves.step(self.step, phase.name, {"lr": lr, **values})
        if self.step % self.config.log.every == 0 or self.step == self.total:
            self.report(Progress(self.step, self.total, phase.name, values))

    def _update(self, batch: TrainingBatch, lr: float, adversarial: bool) -> dict[str, float]:
        with self._computing():
            output: StepOutput = self.model(batch)
            terms = dict(output.terms)
            if adversarial:
                terms |= self._judged(output)
            loss = self.recipe.weighted(terms)
        norm = descend(self.optimizer, loss, lr, self.config.optimizer.clip_grad)
        values = {"loss": loss, "grad_norm": norm, **terms, **output.metrics}
        if bool(norm.isfinite()):
            self.recipe.after_step()
            self.average.update()
            if adversarial:
                values |= self._update_judges(output, lr)
        return {name: float(value.detach()) for name, value in values.items()}

    def _judged(self, output: StepOutput) -> dict[str, Tensor]:
        """Return the generator's side of the game; the judges stand still in it."""
        assert self.judges is not None
        assert output.audio_BT is not None
        assert output.target_BT is not None
        self.judges.requires_grad_(False)
        fake = self.judges(output.audio_BT)
        with torch.no_grad():
            real = self.judges(output.target_BT)
        self.judges.requires_grad_(True)
        generator_loss, _ = GAN_LOSSES[self.recipe.gan]
        matching = feature_matching(real, fake, mean=self.recipe.mean_features)
        return {"adversarial": generator_loss(fake), "feature": matching}

    def _update_judges(self, output: StepOutput, lr: float) -> dict[str, Tensor]:
        assert output.audio_BT is not None
        assert output.target_BT is not None
        _, judges_loss = GAN_LOSSES[self.recipe.gan]
        with self._computing():
            both = torch.cat([output.target_BT, output.audio_BT.detach()])
            features = self.judge(both)
            real = [[layer.chunk(2)[0] for layer in layers] for layers in features]
            fake = [[layer.chunk(2)[1] for layer in layers] for layers in features]
            loss = judges_loss(real, fake)
        norm = descend(self.judge_optimizer, loss, lr, self.config.optimizer.clip_grad)
        return {"judges": loss, "judges_grad_norm": norm}

    def _heed_skipped(self, batch: Batch, values: Mapping[str, float]) -> None:
        """Count a step that was skipped; stop where too many come in a row."""
        if np.isfinite(values["grad_norm"]):
            self.skipped.clear()
            return
        self.num_skipped += 1
        self.skipped.append(batch.keys)
        logger.warning("skipped step %d: its gradient is not finite", self.step)
        if len(self.skipped) >= self.config.optimizer.max_skipped:
            name = f"skipped/step-{self.step:08d}-rank-{self.place.rank}.json"
            report = {"step": self.step, "values": {k: repr(v) for k, v in values.items()}}
            report["keys"] = self.skipped
            self.storage.put(join(self.root, name), json.dumps(report, indent=1).encode())
            raise TrainingDiverged(
                f"{len(self.skipped)} steps in a row had no finite gradient; their samples are "
                f"named in {name}; lower the learning rate or drop what is wrong with them"
            )

    def _validate(self, phase: Phase) -> None:
        if self.validation is None or self.curves is None:
            return
        with self.average.applied(), self._seeded(-1), self._computing():
            values, audio = self.validation.measure(self.recipe, self.place.device)
            weights = self._weights()
        self.curves.validation(self.step, phase.name, values)
        self.report(Progress(self.step, self.total, phase.name, values, kind="validation"))
        for number in range(min(self.config.validation.listen, len(audio))):
            rate = self.recipe.sample_rate
            self.curves.listen(f"original/{number}", 0, self.validation.clips[number], rate)
            name = f"step-{self.step:08d}/{number}"
            self.curves.listen(name, self.step, audio[number], rate)
        if values["mel"] < self.best.mel:
            self.best = Best(phase.name, self.step, values["mel"])
            self._put_weights("best", weights)

    def _save(self, phase: Phase) -> None:
        positions = self._gather(self.position.as_dict())
        if not self.place.leads:
            return
        assert self.curves is not None
        with self.average.applied():
            self._put_weights("last", self._weights())
        self.curves.flush(self.step)
        state = {
            "identity": self.identity,
            "recipe": self.recipe.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state(),
            "positions": positions,
            "skipped": self.skipped,
            "num_skipped": self.num_skipped,
            "best": asdict(self.best),
        }
        if self.judges:
            state["judges"] = self.judges.state_dict()
            state["judge_optimizer"] = self.judge_optimizer.state_dict()
        self.checkpoints.save(self.step, state)

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]
        self.recipe.load_state_dict(state["recipe"])
        self.skipped = [list(keys) for keys in state["skipped"]]
        self.num_skipped = state["num_skipped"]
        self.best = Best(**state["best"])
        if self.judges:
            self.judges.load_state_dict(state["judges"])
        positions = [restore(saved) for saved in state["positions"]]
        if len(positions) == self.place.world_size:
            self.position = positions[self.place.rank]
        else:
            epoch = min(position.epoch for position in positions)
            logger.warning(
                "%d workers go on where there were %d: epoch %d begins again",
                self.place.world_size,
                len(positions),
                epoch,
            )
            self.position = Position(epoch)

    def _weights(self) -> dict[str, Tensor]:
        state = self.recipe.weights_for_inference()
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}

    def _put_weights(self, name: str, weights: dict[str, Tensor]) -> None:
        from safetensors.torch import save

        facts = json.dumps({"codec": self.config.codec.name, "step": self.step})
        data = save(weights, {"speechmill": facts})  # one key: the library does not order several
        self.storage.put(join(self.root, f"{name}.safetensors"), data)

    def _next_batch(self) -> Batch:
        batch = next(self.data)
        self.position = batch.position
        return batch

    def _tensors(self, batch: Batch) -> TrainingBatch:
        enhanced = batch.enhanced_BT
        to_device = partial(torch.Tensor.to, device=self.place.device, non_blocking=True)
        return TrainingBatch(
            to_device(torch.from_numpy(batch.audio_BT)),
            None if enhanced is None else to_device(torch.from_numpy(enhanced)),
        )

    def _computing(self) -> Any:
        return autocast(self.config.precision, self.place.device)

    @contextmanager
    def _seeded(self, step: int) -> Iterator[None]:
        """Draw in the block as this step of this worker always draws."""
        torch.manual_seed(step_seed(self.config.seed, step, self.place.rank))
        yield

    def _parallel(self, module: nn.Module) -> nn.Module:
        if self.place.world_size == 1:
            return module
        devices = [self.place.device] if self.place.device.type == "cuda" else None
        return DistributedDataParallel(module, devices, broadcast_buffers=False)

    def _gather(self, value: Any) -> list[Any]:
        if self.place.world_size == 1:
            return [value]
        gathered: list[Any] = [None] * self.place.world_size
        dist.all_gather_object(gathered, value)
        return gathered


def share_of(place: Place) -> Share:
    """The part of the data that is a worker's."""
    return Share(place.rank, place.world_size)


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """What torch's generator begins a step at; steps below 0 are what comes before a phase."""
    entropy = (seed, step + 2**32, rank)
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def _discriminators(config: TrainConfig) -> Discriminators:
    settings = config.discriminators
    return Discriminators(
        settings.periods, settings.ffts, settings.period_channels, settings.band_channels
    )
