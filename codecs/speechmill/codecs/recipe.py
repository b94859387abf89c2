"""What a trainer must know of a codec's recipe; torch alone, no files, no cluster."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.errors import InvalidConfig

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
    phases_without_audio: ClassVar[tuple[str, ...]] = ()  # discriminators take no part in them
    weights: dict[str, float]  # of the terms, and "adversarial" and "feature"
    gan: ClassVar[str] = "least_squares"  # or hinge
    mean_features: ClassVar[bool] = False  # feature matching is the mean over layers, not the sum
    sample_rate: int  # Hz, of the audio it is given
    hop_length: int  # crops are multiples of it

    def start_from(self, path: Path) -> None:
        """Take the weights of a checkpoint."""
        raise NotImplementedError

    @abstractmethod
    def begin_phase(self, phase: str) -> None:
        """Set what is trained in this phase, by `requires_grad`."""

    def num_init_frames(self) -> int:
        """Return how many more crops' frames `see` wants before the phase's first step."""
        return 0

    def initialize_from(self, batch: TrainingBatch) -> None:
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

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the optimizer moves in this phase."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def train_only(self, *modules: str) -> None:
        """Let the optimizer move the parameters below these modules and no others."""
        prefixes = tuple(f"{module}." for module in modules)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(prefixes) or name in modules)

    def weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum of the terms; one of weight 0 takes no part, not even with NaN."""
        parts = [self.weight(name) * term for name, term in terms.items() if self.weight(name)]
        if not parts:
            raise InvalidConfig(f"every one of {sorted(terms)} has the weight 0; set one above 0")
        return torch.stack(parts).sum()

    def weight(self, name: str) -> float:
        return self.weights.get(name, 0.0)


class CentroidRecipe(Recipe):
    """A recipe whose semantic codebook is k-means centroids, fitted before it is trained."""

    @property
    @abstractmethod
    def centroids_NH(self) -> Tensor:
        """The semantic codebook; all zeros before it is fitted."""

    @abstractmethod
    def points(self, audio_BT: Tensor) -> Tensor:
        """Return points_MH, what the centroids are fitted to: all frames of all rows.

        The zeros behind a row's last sample that is none are padding, which no frame hears.
        """

    @abstractmethod
    def fitted_config(self) -> dict[str, Any]:
        """Return the codec's configuration, tied to the model that the points come from."""


class Frozen(nn.Module):
    """A network that is listened to and never trained.

    It follows the recipe from device to device, but is in no state dict and in no optimizer: it
    comes from a file of its own.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = (network.eval().requires_grad_(False),)  # in a tuple: no child of ours

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        self.network._apply(fn, recurse)  # type: ignore[no-untyped-call]
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def network(self) -> nn.Module:
        return self._network[0]

    @torch.no_grad()
    def forward(self, *arguments: Any) -> Any:
        return self.network(*arguments)


def straight_through(x: Tensor, quantized: Tensor) -> Tensor:
    """Return `quantized`, with the gradient of `x` (arXiv 1308.3432)."""
    return x + (quantized - x).detach()


def random_depths(batch: int, depth: int, least: int, share: float, like: Tensor) -> Tensor:
    """Return depth_B, how many stages each utterance keeps: quantizer dropout (arXiv 2107.03312).

    A `share` of the utterances keeps `least` to all, each number as likely; the others keep all.
    """
    drawn_B = torch.randint(least, depth + 1, (batch,), device=like.device)
    dropped_B = torch.rand(batch, device=like.device) < share
    return torch.where(dropped_B, drawn_B, depth)


def pad_or_trim(audio_BT: Tensor, num_samples: int) -> Tensor:
    """Return audio_BT of so many samples, cut or filled with zeros."""
    return F.pad(audio_BT, (0, num_samples - audio_BT.shape[-1]))


def merge_weights(own: Mapping[str, float], given: Mapping[str, Any]) -> dict[str, float]:
    """Return the weights with those of the configuration in place, or raise `InvalidConfig`."""
    if unknown := sorted(set(given) - set(own)):
        raise InvalidConfig(f"no loss {unknown[0]!r}; this recipe's are {', '.join(sorted(own))}")
    return {**own, **{name: float(value) for name, value in given.items()}}
