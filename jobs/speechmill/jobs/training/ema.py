"""The exponential moving average of the trained weights: it is validated, and it is the result."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from speechmill.codecs.recipe import Recipe


class EMA:
    """Averages the weights that a recipe trains in its present phase."""

    def __init__(self, recipe: Recipe, decay: float):
        self.decay = decay
        self.steps = 0
        self._weights = recipe.trainable_parameters()
        self._average = {name: w.detach().clone() for name, w in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights of one step; the first steps have a larger share."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        averages = list(self._average.values())
        torch._foreach_lerp_(averages, list(self._weights.values()), 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the weights by their average."""
        for name, weight in self._weights.items():
            weight.copy_(self._average[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Replace the weights by their average inside the block."""
        own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self._weights.items():
                    weight.copy_(own[name])

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "weights": self._average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]
        for name, value in state["weights"].items():
            self._average[name].copy_(value)
