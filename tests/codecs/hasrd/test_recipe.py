"""HASRD's recipe: everything learns but the self-supervised model and the centroids over it."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from speechmill.codecs import InvalidConfig, load_codec, load_recipe
from speechmill.codecs.hasrd.config import read_hasrd_config
from speechmill.codecs.hasrd.recipe import HasrdRecipe
from speechmill.codecs.hasrd.weights import untrained_ssl
from speechmill.codecs.nn.kmeans import MiniBatchKMeans, kmeans, nearest_centroids
from speechmill.codecs.nn.masks import mask_padding, pad_or_trim
from speechmill.codecs.recipe import TrainingBatch, random_depths
from tests.codecs.hasrd.small import CONFIGS
from tests.codecs.overfit import (
    begin,
    clips,
    mel_distance,
    moved,
    overfit,
    snapshot,
    without_gradient,
)

SETTINGS: dict[str, Any] = {
    "mel_ffts": [256, 512], "mel_bands": [20, 40], "kmeans_iterations": 5, "revive_below": 0.1,
}  # fmt: skip
FROZEN = "centroids.codebooks_KND"


def ssl_file(kind: str, folder: Path) -> Path:
    """Write the self-supervised model of such a codec."""
    ssl = untrained_ssl(read_hasrd_config("hasrd", CONFIGS[kind]), 0)
    save_file(ssl.state_dict(), folder / "ssl.safetensors")
    return folder / "ssl.safetensors"


def recipe(folder: Path, kind: str = "default", **settings: Any) -> HasrdRecipe:
    """A recipe whose centroids are frames of its clips."""
    torch.manual_seed(0)
    made = load_recipe(
        "hasrd",
        config=CONFIGS[kind],
        checkpoint="untrained",
        settings=SETTINGS | settings,
        semantic_checkpoint=ssl_file(kind, folder),
    )
    assert isinstance(made, HasrdRecipe)
    points_MH = made.points(clips(made))
    made.centroids_NH.copy_(kmeans(points_MH, len(made.centroids_NH), 5))
    return made


@pytest.mark.parametrize(("kind", "least"), [("default", 0.75), ("factorized", 0.8)])
def test_it_learns_its_clips_and_the_semantic_codebook_does_not_change(
    kind: str, least: float, tmp_path: Path
) -> None:
    trained = recipe(tmp_path, kind)
    audio_BT = clips(trained, 0.2)
    begin(trained, "codec", audio_BT)
    before, ssl = snapshot(trained), dict(trained.ssl.network.state_dict())
    ssl = {name: value.clone() for name, value in ssl.items()}
    semantic_BF = trained.network.encode(trained.states(audio_BT), audio_BT, 1)
    distance = mel_distance(trained, audio_BT)
    losses = overfit(trained, "codec", audio_BT, 30, lr=5e-3)
    assert sum(losses[-5:]) < least * sum(losses[:5])
    assert mel_distance(trained, audio_BT) < least * distance
    assert moved(trained, before) == before.keys() - {FROZEN}
    assert all(torch.equal(value, ssl[k]) for k, value in trained.ssl.network.state_dict().items())
    assert torch.equal(trained.network.encode(trained.states(audio_BT), audio_BT, 1), semantic_BF)


@pytest.mark.parametrize("kind", ["default", "same", "conv", "factorized", "half-rate"])
def test_gradients_reach_every_weight_that_is_not_frozen(kind: str, tmp_path: Path) -> None:
    trained = recipe(tmp_path, kind, dropout=0.0)
    audio_BT = clips(trained)
    begin(trained, "codec", audio_BT)
    assert not {
        name for name in trained.trainable_parameters() if "ssl" in name or "centroids" in name
    }
    assert not {n for n in without_gradient(trained, audio_BT) if "codebook" not in n}
    assert all(p.grad is None for p in trained.ssl.network.parameters())
    assert not [name for name in trained.state_dict() if name.startswith("ssl")]


def test_the_acoustic_branch_does_not_train_the_semantic_embedding(tmp_path: Path) -> None:
    trained = recipe(tmp_path)
    audio_BT = clips(trained)
    begin(trained, "codec", audio_BT)
    _, semantic_BFD, residual_BFD = trained._streams(audio_BT)
    residual_BFD.sum().backward()
    assert trained.network.semantic_proj.weight.grad is None
    assert trained.network.acoustic_proj.weight.grad is not None
    semantic_BFD.sum().backward()
    assert trained.network.semantic_proj.weight.grad is not None


@pytest.mark.parametrize("kind", ["default", "conv"])
def test_at_the_start_the_residual_holds_nothing_linear_of_the_words_of_codebook_0(
    kind: str, tmp_path: Path
) -> None:
    trained = recipe(tmp_path, kind)
    audio_BT = clips(trained)
    before, variance = largest_cosine(trained, audio_BT)
    begin(trained, "codec", audio_BT)
    after, less = largest_cosine(trained, audio_BT)
    assert after < 0.1 < 0.3 < before
    assert less < 0.7 * variance


@torch.no_grad()
def largest_cosine(trained: HasrdRecipe, audio_BT: Tensor) -> tuple[float, float]:
    """Between dimensions of the words of codebook 0 and of the residual; and its variance."""
    codes_BF, _, residual_BFD = trained._streams(audio_BT)
    sides = (trained.centroids_NH[codes_BF.flatten()], residual_BFD.flatten(0, 1))
    words_MH, residual_MD = (torch.nn.functional.normalize(x - x.mean(0), dim=0) for x in sides)
    return (words_MH.T @ residual_MD).abs().max().item(), residual_BFD.var().item()


def test_dropout_always_keeps_the_semantic_code(tmp_path: Path) -> None:
    torch.manual_seed(0)
    depth_B = random_depths(4_000, 3, 0, 0.5, torch.zeros(1))
    shares = torch.bincount(depth_B, minlength=4) / 4_000
    torch.testing.assert_close(shares, torch.tensor([1, 1, 1, 5]) / 8, atol=0.03, rtol=0)
    trained = recipe(tmp_path)
    residual_BFD = torch.randn(2, 5, trained.sizes.dim, requires_grad=True)
    trained._continue_from_codebooks(torch.ones_like(trained.ema.counts_KN))
    torch.nn.init.normal_(trained.network.quantizer.codebooks_KND)
    acoustic_BFD, _, _ = trained._euclidean(residual_BFD, torch.tensor([0, 3]))
    assert not acoustic_BFD[0].any()
    acoustic_BFD.sum().backward()
    assert not residual_BFD.grad[0].any()
    assert residual_BFD.grad[1].all()


@cache
def points() -> Tensor:
    """Nine clouds of points, some of them small."""
    torch.manual_seed(0)
    centre_9D = 10 * torch.randn(9, 6)
    cloud_M = torch.multinomial(torch.arange(1.0, 10.0), 4_000, replacement=True)
    return centre_9D[cloud_M] + torch.randn(4_000, 6)


def test_mini_batches_find_the_centroids_of_k_means_over_all_points() -> None:
    torch.manual_seed(1)
    found = MiniBatchKMeans(9, 6)
    found.begin(points()[:100], restarts=3)
    for batch_MD in points().split(200):
        found.update(batch_MD)
    whole_ND = kmeans(points(), 9, 30)

    def distance(centroids_ND: Tensor) -> float:
        nearest_MD = centroids_ND[nearest_centroids(points(), centroids_ND)]
        return (points() - nearest_MD).square().sum(-1).mean().item()

    assert distance(found.centroids_ND) < 1.05 * distance(whole_ND) < 12


def test_a_centroid_without_points_moves() -> None:
    torch.manual_seed(1)
    found = MiniBatchKMeans(9, 6)
    found.begin(points()[:100], restarts=1)
    found.centroids_ND[4] = 1_000.0
    for batch_MD in points().split(200):
        found.update(batch_MD)
    assert found.centroids_ND[4].abs().max() < 100


def test_too_few_different_points_are_refused() -> None:
    with pytest.raises(InvalidConfig, match="2 different points for 3 centroids; give more"):
        MiniBatchKMeans(3, 2).begin(torch.tensor([[0.0, 1.0], [2.0, 0.0]]).repeat(5, 1), 1)


def test_zeros_after_a_clip_do_not_change_its_points(tmp_path: Path) -> None:
    trained = recipe(tmp_path)
    short_BT = mask_padding(clips(trained)[:1, :3_200], torch.tensor([3_000]))
    padded_BT = pad_or_trim(short_BT, 6_400)
    batch_BT = torch.cat([padded_BT, torch.zeros_like(padded_BT), clips(trained)])
    alone_MH = trained.points(short_BT)
    assert len(alone_MH) == 10
    torch.testing.assert_close(trained.points(batch_BT)[:10], alone_MH, atol=1e-5, rtol=1e-4)
    assert len(trained.points(batch_BT)) == 10 + 3 * 20
    assert not len(trained.points(torch.zeros_like(padded_BT)))


def test_trained_weights_tokenize_as_the_recipe_does_and_can_be_trained_further(
    tmp_path: Path,
) -> None:
    trained = recipe(tmp_path)
    audio_BT = clips(trained)
    overfit(trained, "codec", audio_BT, 2)
    save_file(trained.weights_for_inference(), tmp_path / "x.safetensors")
    files = {
        "config": trained.fitted_config(),
        "checkpoint": tmp_path / "x.safetensors",
        "semantic_checkpoint": tmp_path / "ssl.safetensors",
    }
    codec = load_codec("hasrd", **files)
    codes_BKF = codec.encode(audio_BT, torch.full((len(audio_BT),), audio_BT.shape[1]))
    decoded_BT = codec.decode(codes_BKF, torch.full((len(audio_BT),), codes_BKF.shape[2]))
    torch.testing.assert_close(trained.reconstruct(audio_BT), decoded_BT, atol=1e-4, rtol=1e-3)
    tuned = load_recipe("hasrd", **files, settings=SETTINGS)
    tuned.eval().begin_phase("codec")
    assert not tuned.num_init_frames()
    torch.testing.assert_close(
        tuned.reconstruct(audio_BT), trained.reconstruct(audio_BT), atol=1e-5, rtol=1e-4
    )


def test_training_without_centroids_or_semantic_model_is_refused_with_the_cure(
    tmp_path: Path,
) -> None:
    bare = load_recipe("hasrd", config=CONFIGS["default"], checkpoint="untrained")
    with pytest.raises(InvalidConfig, match="fit it with `speechmill fit-kmeans`"):
        bare.begin_phase("codec")
    with pytest.raises(InvalidConfig, match="centroids of random layers are useless"):
        bare.fitted_config()
    save_file(bare.weights_for_inference(), tmp_path / "x.safetensors")
    with pytest.raises(InvalidConfig, match="give semantic_checkpoint"):
        load_recipe("hasrd", config=CONFIGS["default"], checkpoint=tmp_path / "x.safetensors")


def test_evaluation_does_not_move_codebooks(tmp_path: Path) -> None:
    trained = recipe(tmp_path)
    begin(trained, "codec", clips(trained))
    trained.eval()(TrainingBatch(clips(trained)))
    assert trained.ema._observed is None
