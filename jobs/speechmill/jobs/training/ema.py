"""The moving average of the trained weights: what is validated and kept."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from speechmill.codecs.recipe import Recipe


class Average:
    """Follows the weights that a recipe trains in its present phase."""

    def __init__(self, recipe: Recipe, decay: float):
        self.decay = decay
        self.steps = 0
        self._weights = recipe.trainable_parameters()
        self._average = {name: w.detach().clone() for name, w in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of one step; the first steps count for more."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, weight in self._weights.items():
            self._average[name].lerp_(weight, 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Make the average the weights."""
        for name, weight in self._weights.items():
            weight.copy_(self._average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The average in place of the weights, inside the block."""
        own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._weights.items():
                    weight.copy_(own[name])

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps, "weights": self._average}

    def load(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        for name, value in state["weights"].items():
            self._average[name].copy_(value)
