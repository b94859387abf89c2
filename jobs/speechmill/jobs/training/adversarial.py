"""The discriminators of a GAN: their losses for the generator, and their own training."""

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from speechmill.codecs.discriminators import Discriminators
from speechmill.codecs.losses import GAN_LOSSES, feature_matching
from speechmill.codecs.precision import autocast
from speechmill.codecs.recipe import Recipe, StepOutput
from speechmill.jobs.training.config import OptimizerSettings, TrainConfig
from speechmill.jobs.training.context import WorkerContext
from speechmill.jobs.training.optim import Optimizer


class Adversary:
    """Discriminators with their optimizer, for one recipe."""

    def __init__(self, config: TrainConfig, recipe: Recipe, context: WorkerContext):
        sizes = config.discriminators
        self.lr_factor = sizes.lr_factor
        self.discriminators = Discriminators(
            sizes.periods, sizes.ffts, sizes.period_channels, sizes.band_channels
        ).to(context.device)
        self.context = context
        self.precision = config.precision
        self.generator_loss, self.discriminator_loss = GAN_LOSSES[recipe.gan]
        self.mean_features = recipe.mean_features

    def begin_phase(self, settings: OptimizerSettings) -> None:
        """Start with a new optimizer."""
        self.parallel = self.context.parallel(self.discriminators)
        self.optimizer = Optimizer(
            self.discriminators.parameters(), settings, self.precision, self.context.device
        )

    def generator_terms(self, output: StepOutput) -> dict[str, Tensor]:
        """Return the generator's losses; they have no gradient for the discriminators."""
        assert output.audio_BT is not None
        assert output.target_BT is not None
        self.discriminators.requires_grad_(False)
        fake = self.discriminators(output.audio_BT)
        with torch.no_grad():
            real = self.discriminators(output.target_BT)
        self.discriminators.requires_grad_(True)
        matching = feature_matching(real, fake, mean=self.mean_features)
        return {"adversarial": self.generator_loss(fake), "feature": matching}

    def backward(self, output: StepOutput) -> dict[str, Tensor]:
        """Compute the discriminators' gradient; return their loss and the gradient's norm."""
        assert output.audio_BT is not None
        assert output.target_BT is not None
        with autocast(self.precision, self.context.device):
            both = torch.cat([output.target_BT, output.audio_BT.detach()])
            features = self.parallel(both)
            real = [[layer.chunk(2)[0] for layer in layers] for layers in features]
            fake = [[layer.chunk(2)[1] for layer in layers] for layers in features]
            loss = self.discriminator_loss(real, fake)
        return {"discriminators": loss, "discriminators_grad_norm": self.optimizer.backward(loss)}

    def step(self, lr: float, values: Mapping[str, float]) -> None:
        """Train the discriminators at `lr` times their factor, if their gradient is finite."""
        if isfinite(values["discriminators_grad_norm"]):
            self.optimizer.step(lr * self.lr_factor)

    def state_dict(self) -> dict[str, Any]:
        """Return the state under the names that checkpoints have always had."""
        return {
            "judges": self.discriminators.state_dict(),
            **self.optimizer.state_dict("judge_"),
        }

    def load_networks(self, state: Mapping[str, Any]) -> None:
        self.discriminators.load_state_dict(state["judges"])

    def load_optimizer(self, state: Mapping[str, Any]) -> None:
        """Continue within a phase."""
        self.optimizer.load_state_dict(state, "judge_")
