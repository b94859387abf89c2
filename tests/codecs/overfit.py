"""Train recipes on a few clips for some steps, and compare before and after."""

from collections.abc import Callable

import torch
from torch import Tensor

from speechmill.codecs.losses import MelLoss
from speechmill.codecs.recipe import Recipe, TrainingBatch
from tests.codecs.speech import speech


def clips(recipe: Recipe, seconds: float = 0.4, count: int = 3) -> Tensor:
    """audio_BT of whole frames. The signal is made for 16 kHz; at another rate it is higher."""
    size = int(seconds * recipe.sample_rate) // recipe.hop_length * recipe.hop_length
    return torch.stack([speech(size, seed) for seed in range(count)])


def begin(recipe: Recipe, phase: str, audio_BT: Tensor) -> None:
    recipe.train().begin_phase(phase)
    torch.manual_seed(1)
    while recipe.num_init_frames():
        recipe.initialize_from(TrainingBatch(audio_BT))


def overfit(
    recipe: Recipe, phase: str, audio_BT: Tensor, steps: int, lr: float = 2e-3
) -> list[float]:
    """Train one phase on one batch; return the loss of each step."""
    begin(recipe, phase, audio_BT)
    optimizer = torch.optim.Adam(recipe.trainable_parameters().values(), lr=lr)
    losses = []
    for number in range(steps):
        torch.manual_seed(number)
        loss = recipe.weighted(recipe(TrainingBatch(audio_BT)).terms)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(recipe.trainable_parameters().values(), 1.0)
        optimizer.step()
        recipe.after_step()
        losses.append(loss.item())
    recipe.eval()
    return losses


@torch.no_grad()
def mel_distance(recipe: Recipe, audio_BT: Tensor) -> float:
    """The mel distance of the recipe's reconstruction, at three resolutions."""
    mel = MelLoss(recipe.sample_rate, (256, 512, 1024), (20, 40, 60), squared=False)
    return mel(recipe.reconstruct(audio_BT), audio_BT).item()


def snapshot(recipe: Recipe) -> dict[str, Tensor]:
    """A copy of everything in a checkpoint."""
    return {name: value.clone() for name, value in recipe.network.state_dict().items()}


def moved(recipe: Recipe, before: dict[str, Tensor]) -> set[str]:
    """The names of the weights that are not the same to the last bit."""
    now = recipe.network.state_dict()
    return {name for name, value in before.items() if not torch.equal(now[name], value)}


def without_gradient(recipe: Recipe, audio_BT: Tensor, seed: int = 0) -> set[str]:
    """The trained parameters without a gradient from one step's loss."""
    recipe.train().zero_grad()
    torch.manual_seed(seed)
    recipe.weighted(recipe(TrainingBatch(audio_BT)).terms).backward()
    return {
        name
        for name, p in recipe.trainable_parameters().items()
        if p.grad is None or not p.grad.abs().any()
    }


def below(*modules: str) -> Callable[[str], bool]:
    """Whether a name is inside one of these modules."""
    return lambda name: name.startswith(tuple(f"{module}." for module in modules))
