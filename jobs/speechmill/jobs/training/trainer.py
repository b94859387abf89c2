"""The training loop of one worker: steps, phases, validation, checkpoints.

A step depends on the weights, the worker's batch and a generator seeded by (seed, step, rank), so
a run that is resumed from a checkpoint repeats the uninterrupted one to the last bit.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from speechmill.codecs.precision import autocast, check_precision
from speechmill.codecs.recipe import Recipe, StepOutput, TrainingBatch
from speechmill.codecs.self_check import refuse_wrong_modules
from speechmill.jobs.training.adversarial import Adversary
from speechmill.jobs.training.checkpoints import Checkpoints, put_weights
from speechmill.jobs.training.collapse import CollapseDetector
from speechmill.jobs.training.config import OnCollapse, TrainConfig
from speechmill.jobs.training.context import WorkerContext
from speechmill.jobs.training.data import BatchPrefetcher, CropBatch, Cropper, batches
from speechmill.jobs.training.ema import EMA
from speechmill.jobs.training.logging import TrainingLogger
from speechmill.jobs.training.optim import Optimizer, Phase, plan_phases
from speechmill.jobs.training.progress import ProgressKind, TrainProgress
from speechmill.jobs.training.state import Best, TrainingState
from speechmill.jobs.training.stream import SampleStream
from speechmill.jobs.training.validation import Validation
from speechmill.pipeline.storage import join

_STOP = "stop"  # beside the losses of a step, so that one copy from the device has all


class Trainer:
    """Trains a recipe through its phases."""

    def __init__(
        self,
        config: TrainConfig,
        recipe: Recipe,
        stream: SampleStream,
        cropper: Cropper,
        context: WorkerContext,
        identity: dict[str, Any],
        report: Callable[[TrainProgress], None],
    ):
        check_precision(config.precision, context.device)
        self.config = config
        self.recipe = recipe.to(context.device).train()
        refuse_wrong_modules(
            recipe,
            recipe.reconstruct,
            recipe.sample_rate,
            recipe.hop_length,
            config.precision,
            context.device,
        )
        self.stream = stream
        self.cropper = cropper
        self.context = context
        self.identity = identity
        self.report = report
        self.storage = stream.storage
        self.root = self.storage.absolute(config.output)
        self.checkpoints = Checkpoints(self.root, self.storage, config.checkpoint.keep)
        self.phases = plan_phases(config.phases)
        self.total = self.phases[-1].end
        self.state = TrainingState()
        self.stopping = False
        self.keeping_weights = False  # last.safetensors may be from before a collapse
        self.adversary: Adversary | None = None
        if any(phase.settings.adversarial_from is not None for phase in self.phases):
            self.adversary = Adversary(config, recipe, context)
        self.validation: Validation | None = None
        if config.validation.shards and context.is_main:
            self.validation = Validation(config, recipe, self.storage)

    def run(self) -> None:
        """Train from the last checkpoint, or from the start, to the end.

        If a worker should stop, all end after the same step, with a checkpoint of it.
        """
        saved = self.checkpoints.latest()
        if saved:
            self._restore(saved)
        step = self.state.step
        self.log: TrainingLogger | None = None
        if self.context.is_main:
            rows = saved.get("rows", []) if saved else []
            self.log = TrainingLogger(self.root, self.storage, step, rows)
        make = partial(
            batches,
            self.stream,
            self.cropper,
            self.config.data,
            self.state.stream,
            pin_memory=self.context.device.type == "cuda",
        )
        with BatchPrefetcher(make, self.config.data.prefetch) as self.data:
            for phase in self.phases:
                if self.state.step < phase.end and not self.stopping:
                    self._train(phase, saved if saved and step > phase.first else None)
        if self.log:
            self.log.close()

    def _restore(self, saved: Mapping[str, Any]) -> None:
        self.state = TrainingState.from_checkpoint(saved, self.context)
        self.recipe.load_state_dict(saved["recipe"])
        if self.adversary:
            self.adversary.load_networks(saved)

    def _train(self, phase: Phase, saved: Mapping[str, Any] | None) -> None:
        self._begin(phase, saved)
        while self.state.step < phase.end and not self.stopping:
            self._step(phase)
            done = self.state.step == phase.end
            if done:
                self.ema.apply()
            if done or self.state.step % self.config.validation.every == 0:
                self._validate(phase)
            due = done or self.state.step % self.config.checkpoint.every == 0
            if due or self.stopping:
                self._save(due)

    def _begin(self, phase: Phase, saved: Mapping[str, Any] | None) -> None:
        """Choose the weights of a phase and make its optimizers, or restore them."""
        self.recipe.begin_phase(phase.name)
        if saved is None:
            self.state.best = Best(phase.name)
            self.state.detector = CollapseDetector()
            self._initialize_recipe(phase)
        else:
            self.recipe.load_state_dict(saved["recipe"])
        self.model = self.context.parallel(self.recipe)
        adam = self.config.optimizer
        adam = replace(adam, betas=phase.settings.betas or adam.betas)
        trained = self.recipe.trainable_parameters().values()
        self.optimizer = Optimizer(trained, adam, self.config.precision, self.context.device)
        self.ema = EMA(self.recipe, adam.ema_decay)
        if self.adversary:
            self.adversary.begin_phase(adam)
        if saved is not None:
            self.optimizer.load_state_dict(saved)
            self.ema.load_state_dict(saved["average"])
            if self.adversary:
                self.adversary.load_optimizer(saved)

    def _initialize_recipe(self, phase: Phase) -> None:
        self.context.seed_step(self.config.seed, -1 - phase.first)
        with self._autocast():
            while self.recipe.num_init_frames():
                self.recipe.initialize_from(self._tensors(self._next_batch()))

    def _step(self, phase: Phase) -> None:
        step, batch = self.state.step, self._next_batch()
        lr = phase.lr(step)
        self.context.seed_step(self.config.seed, step)
        values = self._update(self._tensors(batch), lr, phase.adversarial(step))
        self.state.step += 1
        self._check_gradient(batch, values)
        if self.log:
            self.log.log_step(self.state.step, phase.name, {"lr": lr, **values})
        self._watch_use(phase, values)
        if self.state.step % self.config.log.every == 0 or self.state.step == self.total:
            self.report(TrainProgress(self.state.step, self.total, phase.name, values))

    def _update(self, batch: TrainingBatch, lr: float, adversarial: bool) -> dict[str, float]:
        adversary = self.adversary if adversarial else None
        with self._autocast():
            output: StepOutput = self.model(batch)
            terms = dict(output.terms)
            if adversary:
                terms |= adversary.generator_terms(output)
            loss = self.recipe.weighted(terms)
        found = {"loss": loss, "grad_norm": self.optimizer.backward(loss)}
        found |= {**terms, **output.metrics}
        if adversary:
            found |= adversary.backward(output)
        stop, metrics = self.context.exchange(output.metrics)
        values = _to_floats(found | metrics | {_STOP: stop})
        self.stopping = values.pop(_STOP) > 0
        if isfinite(values["grad_norm"]):
            self.optimizer.step(lr)
            self.recipe.after_step()
            self.ema.update()
            if adversary:
                adversary.step(lr, values)
        return values

    def _check_gradient(self, batch: CropBatch, values: Mapping[str, float]) -> None:
        """Count a step without a finite gradient; give up after too many in a row.

        A gradient that overflowed in fp16 for the sake of the scale does not count.
        """
        if self.optimizer.overflowed(values["loss"], values["grad_norm"]):
            return
        step, skipped = self.state.step, self.state.skipped
        skipped.add(step, batch.keys, values)
        if len(skipped.in_a_row) >= self.config.optimizer.max_skipped:
            name = f"skipped/step-{step:08d}-rank-{self.context.rank}.json"
            skipped.give_up(step, values, join(self.root, name), self.storage)

    def _watch_use(self, phase: Phase, values: Mapping[str, float]) -> None:
        """Report a collapse, and stop if the run should; all workers see the same values."""
        if not isfinite(values["grad_norm"]):
            return
        collapse = self.state.detector.add(self.state.step, phase.name, values)
        if collapse is None:
            return
        if self.log:
            self.log.log_collapse(collapse)
        note, kind = f"{collapse}; {collapse.cure}", ProgressKind.COLLAPSE
        if self.config.on_collapse == OnCollapse.WARN:
            note += "; the same command with on_collapse=stop names the weights from before"
        self.report(TrainProgress(collapse.step, self.total, phase.name, {}, kind, note))
        if self.config.on_collapse == OnCollapse.STOP:
            self.stopping = self.keeping_weights = True

    def _validate(self, phase: Phase) -> None:
        if self.validation is None or self.log is None:
            return
        step = self.state.step
        self.context.seed_step(self.config.seed, -1)
        with self.ema.applied(), self._autocast():
            values, audio = self.validation.measure(self.recipe, self.context.device)
            if values["mel"] < self.state.best.mel:
                self.state.best = Best(phase.name, step, values["mel"])
                self._put_weights("best")
        self.log.log_validation(step, phase.name, values)
        kind = ProgressKind.VALIDATION
        self.report(TrainProgress(step, self.total, phase.name, values, kind))
        rate = self.recipe.sample_rate
        for number in range(min(self.config.validation.listen, len(audio))):
            self.log.log_audio(f"original/{number}", 0, self.validation.clips[number], rate)
            self.log.log_audio(f"step-{step:08d}/{number}", step, audio[number], rate)

    def _save(self, due: bool) -> None:
        """Write a checkpoint; one that is not due leaves the files of curves as they would be."""
        streams = self.context.gather(self.state.stream.as_dict())
        if self.log is None:
            return
        if not self.keeping_weights:
            with self.ema.applied():
                self._put_weights("last")
            self.state.weights_step = self.state.step
        if due:
            self.log.flush(self.state.step)
        networks = {
            "identity": self.identity,
            "rows": self.log.rows,
            "recipe": self.recipe.state_dict(),
            **self.optimizer.state_dict(),
            "average": self.ema.state_dict(),
            **(self.adversary.state_dict() if self.adversary else {}),
        }
        self.checkpoints.save(self.state.step, networks | self.state.as_dict(streams))

    def _put_weights(self, name: str) -> None:
        """Write the weights as `load_codec` takes them."""
        facts = {"codec": self.config.codec.name, "step": self.state.step}
        url = join(self.root, f"{name}.safetensors")
        put_weights(url, self.recipe.weights_for_inference(), facts, self.storage)

    def _next_batch(self) -> CropBatch:
        batch = next(self.data)
        self.state.stream = batch.state
        return batch

    def _tensors(self, batch: CropBatch) -> TrainingBatch:
        """Copy a batch to the device; from pinned memory a GPU copies while the host goes on."""
        copy = partial(Tensor.to, device=self.context.device, non_blocking=True)
        enhanced = batch.enhanced_BT
        return TrainingBatch(copy(batch.audio_BT), None if enhanced is None else copy(enhanced))

    def _autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.config.precision, self.context.device)


def _to_floats(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the values of a step by one copy; nothing else waits for the device."""
    numbers = torch.stack([value.detach() for value in values.values()]).tolist()
    return dict(zip(values, numbers, strict=True))
