"""What a trainer must know of a codec's recipe; torch alone, no files, no cluster."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speech_codecs.errors import InvalidConfig

Enhance = Callable[[Tensor], Tensor]  # audio_BT to audio_BT, of the same length and in time with it


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Crops of one length, float32 at the codec's rate."""

    audio_BT: Tensor
    enhanced_BT: Tensor | None = None  # the same crops out of a speech enhancer


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What one forward pass gives the trainer.

    `terms` are unweighted losses, by the names that the recipe's weights have; `metrics` are shown
    and not trained.
    """

    terms: dict[str, Tensor]
    audio_BT: Tensor | None = None  # the reconstruction, where discriminators may judge it
    target_BT: Tensor | None = None  # and what they take for real
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Recipe(nn.Module):
    """A network with its losses, trained phase by phase.

    Random draws come from torch's global generator, which the trainer seeds before every step:
    so a step depends on nothing but the weights, the batch and the seed.
    """

    phases: ClassVar[tuple[str, ...]]
    weights: dict[str, float]  # of the terms, and "adversarial" and "feature"
    gan: ClassVar[str] = "least_squares"  # or hinge
    sample_rate: int  # Hz, of the audio it is given
    hop_length: int  # crops are multiples of it

    @abstractmethod
    def begin(self, phase: str) -> None:
        """Set what is trained in this phase, by `requires_grad`."""

    def frames_to_see(self) -> int:
        """Return how many more crops' frames `see` wants before the phase's first step."""
        return 0

    def see(self, batch: TrainingBatch) -> None:
        """Take in a batch without a step, to initialise from data."""

    @abstractmethod
    def forward(self, batch: TrainingBatch) -> StepOutput: ...

    def after_step(self) -> None:
        """Update what is not trained by gradients; called after each optimizer step."""

    @abstractmethod
    def reconstruct(self, audio_BT: Tensor) -> Tensor:
        """Return what the codec makes of audio in this phase."""

    @abstractmethod
    def weights_for_inference(self) -> dict[str, Tensor]:
        """Return the state dict that `load_codec` takes as a checkpoint."""

    def trained(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the optimizer moves in this phase."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the terms; one of weight 0 takes no part, not even with NaN."""
        parts = [self.weight(name) * term for name, term in terms.items() if self.weight(name)]
        if not parts:
            raise InvalidConfig(f"every one of {sorted(terms)} has the weight 0; set one above 0")
        return torch.stack(parts).sum()

    def weight(self, name: str) -> float:
        return self.weights.get(name, 0.0)


def merge_weights(own: Mapping[str, float], given: Mapping[str, Any]) -> dict[str, float]:
    """Return the weights with those of the configuration in place, or raise `InvalidConfig`."""
    if unknown := sorted(set(given) - set(own)):
        raise InvalidConfig(f"no loss {unknown[0]!r}; this recipe's are {', '.join(sorted(own))}")
    return {**own, **{name: float(value) for name, value in given.items()}}
