"""What distinguishes HASRD from other residual codecs: its independent semantic codebook."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from speechmill.codecs.hasrd.codec import HasrdCodec
from speechmill.codecs.hasrd.config import read_hasrd_config
from speechmill.codecs.hasrd.model import Taps
from speechmill.codecs.hasrd.weights import untrained_hasrd
from tests.codecs.hasrd.small import CONFIGS, codec
from tests.codecs.speech import speech
from tests.codecs.tokens import encode_alone


@torch.inference_mode()
def taps_of(kind: str, clip_T: Tensor) -> Taps:
    loaded = codec(kind)
    assert loaded.ssl is not None
    return loaded.network.taps(loaded.ssl(loaded.ssl.prepare(clip_T[None])))


@pytest.mark.parametrize("kind", ["default", "same", "conv", "half-rate", "hubert-base"])
def test_the_first_codebook_is_the_nearest_centroid_of_the_tap(kind: str) -> None:
    clip_T = speech(16_000)
    semantic_FH = taps_of(kind, clip_T).semantic_BFH[0].double()
    centroids_NH = codec(kind).network.centroids.codebooks_KND[0].double()
    expected_F = torch.cdist(semantic_FH, centroids_NH).argmin(-1)
    assert torch.equal(encode_alone(codec(kind), clip_T)[0], expected_F)


@pytest.mark.parametrize("kind", ["default", "same", "conv", "factorized"])
def test_the_first_codebook_does_not_depend_on_the_acoustic_branch(kind: str) -> None:
    clip_T, loaded = speech(16_000), codec(kind)
    before_KF = encode_alone(loaded, clip_T)
    other = untrained_hasrd(read_hasrd_config("hasrd", CONFIGS[kind]), 1)
    other.centroids = loaded.network.centroids
    device = torch.device("cpu")
    changed = HasrdCodec(other, loaded.ssl, loaded.info, device=device, precision="fp32")
    after_KF = encode_alone(changed, clip_T)
    assert torch.equal(after_KF[0], before_KF[0])
    assert not torch.equal(after_KF[1:], before_KF[1:])


def test_the_weighted_source_is_a_residual_of_the_mixture() -> None:
    network, taps = codec().network, taps_of("default", speech(8_000))
    codes_BF = network.semantic_codes(taps.semantic_BFH)
    word_BFH = network.centroids.codebooks_KND[0][codes_BF]
    expected_BFD = network.acoustic_proj(taps.mixed_BFH) - network.semantic_proj(word_BFH)
    actual_BFD = network.residual(taps, torch.zeros(1, 8_000), codes_BF)
    torch.testing.assert_close(actual_BFD, expected_BFD, atol=1e-6, rtol=0)


def test_the_mixture_is_that_of_the_layers_up_to_the_tap() -> None:
    network, ssl = untrained_hasrd(read_hasrd_config("hasrd", CONFIGS["default"]), 0), codec().ssl
    assert ssl is not None
    network.layer_logits.copy_(torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5]))
    states = list(ssl(ssl.prepare(speech(8_000)[None])))
    mixed_BFH = network.taps(states).mixed_BFH
    weight_L = network.layer_logits.softmax(0)
    expected_BFH = torch.einsum("l,lbfh->bfh", weight_L, torch.stack(states))
    torch.testing.assert_close(mixed_BFH, expected_BFH)


def test_a_tap_at_a_centroid_leaves_nothing_to_the_same_source() -> None:
    network = codec("same").network
    codes_BF = torch.arange(64)[None]
    taps = Taps(network.centroids.codebooks_KND[0][codes_BF], None)
    residual_BFD = network.residual(taps, torch.zeros(1, 1), codes_BF)
    assert torch.equal(network.semantic_codes(taps.semantic_BFH), codes_BF)
    assert torch.equal(residual_BFD, torch.zeros_like(residual_BFD))


def test_the_residual_passes_no_gradient_to_the_semantic_embedding() -> None:
    network = untrained_hasrd(read_hasrd_config("hasrd", CONFIGS["default"]), 0).requires_grad_(
        True
    )
    taps, codes_BF = Taps(torch.randn(1, 5, 64), torch.randn(1, 5, 64)), torch.arange(5)[None]
    network.residual(taps, torch.zeros(1, 1), codes_BF).sum().backward()
    assert network.semantic_proj.weight.grad is None
    network.latent(codes_BF[:, None]).square().sum().backward()
    assert network.semantic_proj.weight.grad is not None


def test_the_centroids_are_not_parameters() -> None:
    network = untrained_hasrd(read_hasrd_config("hasrd", CONFIGS["default"]), 0)
    assert not any(name.startswith("centroids") for name, _ in network.named_parameters())
    assert "centroids.codebooks_KND" in network.state_dict()


@pytest.mark.parametrize("kind", ["default", "factorized"])
def test_any_prefix_of_the_codebooks_encodes_and_decodes(kind: str) -> None:
    codes_BKF = encode_alone(codec(kind), speech(6_400))[None]
    audio = [codec(kind).decode(codes_BKF[:, :k], torch.tensor([20])) for k in (1, 2, 3, 4)]
    assert {tuple(audio_BT.shape) for audio_BT in audio} == {(1, 6_400)}
    assert all(not torch.equal(a, b) for a, b in pairwise(audio))


def test_encoding_to_the_first_codebooks_gives_a_prefix() -> None:
    semantic_KF = encode_alone(codec("semantic-only"), speech(6_400))
    assert torch.equal(semantic_KF, encode_alone(codec(), speech(6_400))[:1])
