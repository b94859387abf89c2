"""The interface between a trainer and a codec's recipe; it needs torch, but no cluster."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from speechmill.codecs.config import check_type
from speechmill.codecs.errors import InvalidConfig

Enhance = Callable[[Tensor], Tensor]  # audio_BT to audio_BT of the same length, without delay


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Crops of one length, float32 at the codec's rate."""

    audio_BT: Tensor
    enhanced_BT: Tensor | None = None  # the same crops, enhanced


@dataclass(frozen=True, slots=True)
class StepOutput:
    """The output of one forward pass.

    `terms` are unweighted losses, named like the recipe's weights. `metrics` are logged, and those
    of `nn.usage` show whether the codec collapses; all steps of a phase have the same ones. Both
    are scalars on the device of the batch: a recipe does not wait for it.
    """

    terms: dict[str, Tensor]
    audio_BT: Tensor | None = None  # the reconstruction, for discriminators
    target_BT: Tensor | None = None  # the audio that they should call real
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Recipe(nn.Module):
    """A network with its losses, trained phase by phase.

    Random numbers come from torch's global generator, which the trainer seeds before every step: a
    step depends only on the weights, the batch and the seed.
    """

    phases: ClassVar[tuple[str, ...]]
    phases_without_audio: ClassVar[tuple[str, ...]] = ()  # discriminators take no part in them
    weights: dict[str, float]  # of the terms, "adversarial" and "feature"
    gan: ClassVar[str] = "least_squares"  # or "hinge"
    mean_features: ClassVar[bool] = False  # feature matching is the mean over layers, not the sum
    sample_rate: int  # Hz, of the batches
    hop_length: int  # the length of a crop is a multiple of it

    def start_from(self, path: Path) -> None:
        """Take the weights of a checkpoint."""
        raise NotImplementedError

    @abstractmethod
    def begin_phase(self, phase: str) -> None:
        """Set `requires_grad` of all parameters for this phase."""

    def num_init_frames(self) -> int:
        """Return how many frames `initialize_from` still needs before the phase's first step."""
        return 0

    def initialize_from(self, batch: TrainingBatch) -> None:
        """Initialise from a batch, without a training step."""

    @abstractmethod
    def forward(self, batch: TrainingBatch) -> StepOutput:
        """Return the losses of a batch, and the audio that discriminators compare."""

    def after_step(self) -> None:
        """Update the parts that gradients do not train; called after each optimizer step."""

    @abstractmethod
    def reconstruct(self, audio_BT: Tensor) -> Tensor:
        """Return the codec's reconstruction of audio in this phase."""

    @abstractmethod
    def weights_for_inference(self) -> dict[str, Tensor]:
        """Return the state dict that `load_codec` takes as a checkpoint."""

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the parameters that the optimizer trains in this phase."""
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def train_only(self, *modules: str) -> None:
        """Train the parameters inside these modules and no others."""
        prefixes = tuple(f"{module}." for module in modules)
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name.startswith(prefixes) or name in modules)

    def weighted(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum; a term of weight 0 is left out, even if it is NaN."""
        parts = [self.weight(name) * term for name, term in terms.items() if self.weight(name)]
        if not parts:
            raise InvalidConfig(f"every one of {sorted(terms)} has the weight 0; set one above 0")
        return torch.stack(parts).sum()

    def weight(self, name: str) -> float:
        return self.weights.get(name, 0.0)


class CentroidRecipe(Recipe):
    """A recipe whose semantic codebook is fitted by k-means before training."""

    @property
    @abstractmethod
    def centroids_NH(self) -> Tensor:
        """The semantic codebook; all zeros until it is fitted."""

    @abstractmethod
    def points(self, audio_BT: Tensor) -> Tensor:
        """Return points_MH, to which the centroids are fitted: all frames of all rows.

        Zeros at the end of a row are padding, and do not influence its frames.
        """

    @abstractmethod
    def fitted_config(self) -> dict[str, Any]:
        """Return the codec's configuration, tied to the model that the points come from."""


class Frozen(nn.Module):
    """A network whose output is used and which is never trained.

    It moves between devices with the recipe, but is not part of a state dict or an optimizer: it is
    loaded from its own file.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = (network.eval().requires_grad_(False),)  # a tuple: not a child module

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


def random_depths(batch: int, depth: int, least: int, share: float, like: Tensor) -> Tensor:
    """Return depth_B, how many stages each utterance keeps: quantizer dropout (arXiv 2107.03312).

    A `share` of the utterances keeps `least` to `depth` stages, all equally likely; the rest keep
    all.
    """
    drawn_B = torch.randint(least, depth + 1, (batch,), device=like.device)
    dropped_B = torch.rand(batch, device=like.device) < share
    return torch.where(dropped_B, drawn_B, depth)


def merge_weights(own: Mapping[str, float], given: Mapping[str, Any]) -> dict[str, float]:
    """Return the recipe's weights, replaced by the given ones; raises `InvalidConfig`."""
    if unknown := sorted(set(given) - set(own)):
        raise InvalidConfig(f"no loss {unknown[0]!r}; this recipe's are {', '.join(sorted(own))}")
    for name, value in given.items():
        check_type(f"the weight {name}", value, own[name])
    return {**own, **{name: float(value) for name, value in given.items()}}
