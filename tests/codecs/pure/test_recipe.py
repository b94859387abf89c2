"""The properties that distinguish PURE's training, tested with a hum as the noise.

The enhancer removes a tone that is mixed into every clip. A generic residual quantizer averages
zero-mean noise out on its own, so only a constant noise distinguishes the two: a twin that is
trained without enhanced clips (p_enh = 0) must fail where PURE succeeds.
"""

from collections.abc import Callable
from functools import cache
from math import pi, sqrt
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import torchaudio
from safetensors.torch import save_file
from torch import Tensor

from speechmill.codecs import InvalidConfig, codec_info, load_codec
from speechmill.codecs.config import override
from speechmill.codecs.losses import MelLoss, kl_to_standard_normal
from speechmill.codecs.pure.config import PureConfig
from speechmill.codecs.pure.recipe import PureRecipe, PureRecipeConfig
from speechmill.codecs.recipe import StepOutput, TrainingBatch
from tests.codecs.speech import speech

SIZES = PureConfig(
    backbone="frames", strides=(320,), width=32, inner_width=64, depth=2, kernel=3, dim=8,
    window=640, bands=40, num_stages=8, codebook_size=64,
)  # fmt: skip
SETTINGS: dict[str, Any] = {
    "mel_ffts": (512,), "mel_bands": (40,), "kmeans_frames": 800, "kmeans_iterations": 5,
    "revive_below": 0.1, "dropout": 0.0, "ema_decay": 0.95,
    "weights": {"waveform": 10, "mel": 5, "first_stage": 1, "kl": 1e-4},
}  # fmt: skip
SAMPLES = Path(__file__).parents[3] / "samples"
SECONDS, BATCH, HUM = 0.2, 8, 1_000.0  # Hz
Enhancer = Callable[[Tensor], Tensor]


def hum(audio_BT: Tensor) -> Tensor:
    """The same tone in every clip."""
    time_T = torch.arange(audio_BT.shape[-1]) / 16_000
    return 0.08 * torch.sin(2 * pi * HUM * time_T).expand_as(audio_BT)


def voices(seed: int, count: int = BATCH) -> Tensor:
    """Gliding harmonics with varying level, without the hum."""
    random = torch.Generator().manual_seed(seed)
    time_T = torch.arange(round(SECONDS * 16_000)) / 16_000
    pitch_B1 = 90 + 160 * torch.rand(count, 1, generator=random)
    glide_B1 = 100 * (torch.rand(count, 1, generator=random) - 0.5)
    phase_BT = 2 * pi * (pitch_B1 * time_T + glide_B1 * time_T.square())
    levels = torch.rand(count, 6, generator=random)
    parts = [levels[:, n : n + 1] * torch.sin((n + 1) * phase_BT) / (n + 1) for n in range(6)]
    return 0.1 * torch.stack(parts).sum(0)


def noisy(seed: int, count: int = BATCH) -> Tensor:
    clean_BT = voices(seed, count)
    return clean_BT + hum(clean_BT)


def read_clip(name: str) -> Tensor:
    """A clip of the sample speech, at 16 kHz."""
    audio_T, rate = soundfile.read(SAMPLES / f"{name}.flac", dtype="float32")
    return torchaudio.functional.resample(torch.from_numpy(audio_T), rate, 16_000)


class Dehum:
    """A perfect enhancer that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, audio_BT: Tensor) -> Tensor:
        self.calls += 1
        return audio_BT - hum(audio_BT)


def recipe(enhance: Enhancer | None = None, **settings: Any) -> PureRecipe:
    torch.manual_seed(0)
    return PureRecipe(SIZES, override(PureRecipeConfig(), {**SETTINGS, **settings}), enhance)


def step(trained: PureRecipe, optimizer: torch.optim.Optimizer, number: int) -> StepOutput:
    torch.manual_seed(number)
    output: StepOutput = trained(TrainingBatch(noisy(number)))
    optimizer.zero_grad()
    trained.weighted(output.terms).backward()
    optimizer.step()
    trained.after_step()
    return output


def train(trained: PureRecipe, phase: str, steps: int, lr: float = 5e-3) -> PureRecipe:
    trained.train().begin_phase(phase)
    torch.manual_seed(99)
    while trained.num_init_frames():
        trained.initialize_from(TrainingBatch(noisy(int(torch.randint(10**6, ())))))
    optimizer = torch.optim.Adam(trained.trainable_parameters().values(), lr=lr)
    for number in range(steps):
        step(trained, optimizer, 1_000 + number)
    return trained.eval()


@cache
def vae_weights() -> dict[str, Tensor]:
    return train(recipe(), "vae", 150, lr=1e-2).state_dict()


def after_vae(enhance: Enhancer | None = None, **settings: Any) -> PureRecipe:
    begun = recipe(enhance, **settings)
    begun.load_state_dict(vae_weights())
    return begun


@cache
def pure(p_enh: float, steps: int = 80) -> PureRecipe:
    return train(after_vae(Dehum(), p_enh=p_enh), "quantize", steps)


HELD_OUT = noisy(5, 16)


@torch.no_grad()
def first_stage_distances(trained: PureRecipe) -> tuple[float, float]:
    """Mean squared distance of q1 to the enhanced and to the raw latent, on held-out clips."""
    raw_BDF = trained.latent(HELD_OUT)
    enhanced_BDF = trained.latent(HELD_OUT - hum(HELD_OUT))
    word_BDF = trained.network.quantizer.decode(trained.network.quantizer.encode(raw_BDF, 1))
    to = [(word_BDF - x).square().sum(1).mean().item() for x in (enhanced_BDF, raw_BDF)]
    return to[0], to[1]


@torch.no_grad()
def hum_db(trained: PureRecipe, stages: int) -> float:
    """Level of the hum in the audio of the first stages, relative to that in the clips."""
    network = trained.network
    audio_BT = network.decode(network.encode(HELD_OUT, stages))
    tone_T = torch.exp(-2j * pi * HUM * torch.arange(HELD_OUT.shape[-1]) / 16_000)
    ours, theirs = ((x_BT * tone_T).sum(-1).abs().square() for x_BT in (audio_BT, hum(HELD_OUT)))
    return float(10 * (ours.mean() / theirs.mean()).log10())


def test_1_the_first_stage_anchors_to_the_enhanced_latent_and_the_twin_does_not() -> None:
    enhanced, raw = first_stage_distances(pure(1.0))
    assert enhanced < 0.9 * raw
    enhanced, raw = first_stage_distances(pure(0.0))
    assert enhanced > raw


def test_1_the_first_stage_has_no_hum_but_that_of_the_twin_has() -> None:
    assert hum_db(pure(1.0), 1) <= -6
    assert abs(hum_db(pure(0.0), 1)) <= 3


def test_2_more_enhancement_brings_the_first_stage_nearer_to_the_enhanced_latent() -> None:
    distances = [first_stage_distances(pure(p_enh))[0] for p_enh in (0.0, 0.5, 1.0)]
    assert distances[0] > distances[1] > distances[2]


def test_3_all_stages_together_restore_the_hum_that_the_first_one_lacks() -> None:
    assert hum_db(pure(1.0), 8) - hum_db(pure(1.0), 1) >= 6
    assert abs(hum_db(pure(1.0), 8)) <= 3
    assert abs(hum_db(pure(0.0), 8) - hum_db(pure(0.0), 1)) <= 3


@pytest.mark.parametrize("mode", ["target", "swap"])
def test_4_the_second_stage_gets_the_residual_of_the_raw_latent(mode: str) -> None:
    trained = train(after_vae(Dehum(), p_enh=1.0, stage1_mode=mode), "quantize", 0)
    raw_BDF, taught_BDF = torch.randn(2, 8, 5), torch.randn(2, 8, 5)
    stages = trained.quantize(raw_BDF, taught_BDF)
    raw_MD = raw_BDF.transpose(1, 2).flatten(0, 1)
    taught_MD = taught_BDF.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(
        stages.inputs_KMD[1], raw_MD - stages.words_KMD[0], atol=1e-6, rtol=0
    )
    assert not torch.allclose(stages.inputs_KMD[1], taught_MD - stages.words_KMD[0], atol=1e-2)


def test_5_only_training_uses_the_enhancer() -> None:
    enhancer = torch.nn.Linear(1, 1)
    calls = []

    def enhance(audio_BT: Tensor) -> Tensor:
        calls.append(len(audio_BT))
        return enhancer(audio_BT[..., None])[..., 0]

    before = [p.detach().clone() for p in enhancer.parameters()]
    with_teacher = train(after_vae(enhance, p_enh=1.0), "quantize", 3)
    assert len(calls) == 3
    assert not set(enhancer.parameters()) & set(with_teacher.parameters())
    assert all(map(torch.equal, before, enhancer.parameters()))
    without = recipe()
    without.load_state_dict(with_teacher.state_dict())
    codes = [r.network.encode(HELD_OUT, 8) for r in (with_teacher, without)]
    assert torch.equal(*codes)
    assert len(calls) == 3


@pytest.mark.parametrize("frozen", [True, False])
def test_6_a_frozen_encoder_does_not_change_in_the_second_phase(frozen: bool) -> None:
    begun = vae_weights()
    ended = train(after_vae(p_enh=0.0, freeze_encoder=frozen), "quantize", 3).state_dict()
    moved = {name for name in begun if not torch.equal(begun[name], ended[name])}
    assert any(name.startswith("network.decoder.") for name in moved)
    assert "network.quantizer.codebooks_KND" in moved
    assert any(name.startswith("network.encoder.") for name in moved) is not frozen


def test_7_the_first_phase_has_neither_quantizer_nor_enhancer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enhancer = Dehum()
    begun = recipe(enhancer)
    monkeypatch.setattr(begun, "quantize", pytest.fail)
    train(begun, "vae", 2)
    assert enhancer.calls == 0
    zero = torch.zeros(3)
    assert kl_to_standard_normal(zero, zero) == 0
    assert kl_to_standard_normal(zero + 1, zero) > 0
    assert kl_to_standard_normal(zero, zero + 1) > 0


def test_7_the_posterior_is_trained_and_its_mean_is_quantized() -> None:
    trained = recipe().train()
    trained.begin_phase("vae")
    trained.weighted(trained(TrainingBatch(noisy(0))).terms).backward()
    grad = trained.network.vae_head.weight.grad
    assert grad is not None
    assert all(half.abs().sum() > 0 for half in grad.chunk(2))
    quantizing = pure(0.0)
    assert torch.equal(*(quantizing.network.encode(HELD_OUT, 8) for _ in range(2)))


@pytest.mark.parametrize("p_enh", [0.0, 0.3, 1.0])
def test_8_utterances_are_enhanced_as_often_as_the_schedule_says(p_enh: float) -> None:
    enhancer = Dehum()
    trained = train(after_vae(enhancer, p_enh=p_enh), "quantize", 0)
    torch.manual_seed(0)
    latent_BDF = torch.zeros(2_000, 8, 1)
    batch = TrainingBatch(torch.zeros(2_000, 320))
    _, _, taught_R = trained._target(batch, latent_BDF)
    sigma = sqrt(p_enh * (1 - p_enh) / 2_000)
    assert abs(len(taught_R) / 2_000 - p_enh) <= 3 * sigma
    assert enhancer.calls == (p_enh > 0)


def test_8_a_delayed_start_delays_the_enhancer() -> None:
    enhancer = Dehum()
    train(after_vae(enhancer, p_enh=1.0, enhance_after=2), "quantize", 3)
    assert enhancer.calls == 1


@pytest.mark.parametrize(("name", "kbps", "rows"), [
    ("pure-0.5k", 0.5, 1), ("pure-1k", 1, 2), ("pure-2k", 2, 4), ("pure-4k", 4, 8),
])  # fmt: skip
def test_9_the_number_of_codebooks_decides_the_bit_rate(name: str, kbps: float, rows: int) -> None:
    info = codec_info(name)
    assert (info.kbps, info.codebook_sizes) == (kbps, rows * (1_024,))
    assert [info.num_frames(size) for size in (32_000, 32_001)] == [100, 101]


@pytest.mark.parametrize(("num_samples", "frames"), [(32_000, 100), (32_001, 101)])
def test_9_frames_cover_the_audio(num_samples: int, frames: int) -> None:
    network = after_vae().eval().network
    with torch.no_grad():
        codes_BKF = network.encode(torch.randn(2, num_samples), 8)
        audio_BT = network.decode(codes_BKF)
    assert codes_BKF.shape == (2, 8, frames)
    assert codes_BKF.min() >= 0
    assert codes_BKF.max() < SIZES.codebook_size
    assert audio_BT.shape == (2, 320 * frames)


@pytest.mark.parametrize("name", ["waveform", "mel", "vq", "latent", "enhancement", "stft"])
def test_10_a_weight_of_zero_removes_only_the_gradient_of_its_loss(name: str) -> None:
    names = ("waveform", "mel", "stft", "vq", "latent", "enhancement")
    weights = dict.fromkeys(names, 1.0)
    settings: dict[str, Any] = {"codebook_update": "gradient", "freeze_encoder": False}

    def gradients(**changed: float) -> Tensor:
        begun = after_vae(Dehum(), p_enh=1.0, weights=weights | changed, **settings)
        trained = train(begun, "quantize", 0).train()
        torch.manual_seed(3)
        trained.weighted(trained(TrainingBatch(noisy(3))).terms).backward()
        parameters = trained.trainable_parameters().values()
        return torch.cat([(p.grad if p.grad is not None else 0 * p).flatten() for p in parameters])

    without = gradients(**{name: 0.0})
    alone = gradients(**{key: float(key == name) for key in weights})
    assert alone.any()
    torch.testing.assert_close(gradients(), without + alone, atol=1e-4, rtol=1e-3)


def first_codebook_after_one_step(enhance: Enhancer, **settings: Any) -> Tensor:
    trained = after_vae(enhance, p_enh=1.0, **settings)
    return train(trained, "quantize", 1).network.quantizer.codebooks_KND[0]


@pytest.mark.parametrize(("weight", "same"), [(0.0, True), (1.0, False)])
def test_10_the_enhancer_reaches_the_first_codebook_through_its_weight(
    weight: float, same: bool
) -> None:
    settings = {"codebook_update": "gradient", "weights": {"enhancement": weight}}
    updates = [
        first_codebook_after_one_step(enhance, **settings)
        for enhance in (Dehum(), lambda audio_BT: 0.5 * audio_BT)
    ]
    assert torch.equal(*updates) is same


@pytest.mark.parametrize("mode", ["target", "swap"])
def test_11_the_first_codebook_follows_the_enhanced_latent(mode: str) -> None:
    updates = [
        first_codebook_after_one_step(enhance, stage1_mode=mode)
        for enhance in (Dehum(), lambda audio_BT: 0.5 * audio_BT)
    ]
    assert not torch.allclose(*updates, atol=1e-5)


@torch.no_grad()
def test_12_each_stage_of_the_codec_that_ships_reduces_the_error_and_is_used() -> None:
    codec = load_codec("pure-16k-small")
    clips = [speech(32_000), *(read_clip(name) for name in ("en/hello", "de/zahlen", "it/sera"))]
    mel, distances, used = MelLoss(16_000), torch.zeros(4), []
    for clip_T in clips:
        codes_BKF = codec.encode(clip_T[None], torch.tensor([len(clip_T)]))
        used.append([len(codes.unique()) for codes in codes_BKF.unbind(1)])
        for place, count in enumerate((1, 2, 4, 8)):
            audio_BT = codec.decode(codes_BKF[:, :count], torch.tensor([codes_BKF.shape[-1]]))
            distances[place] += mel(audio_BT[:, : len(clip_T)], clip_T[None])
    assert distances.tolist() == sorted(distances.tolist(), reverse=True)
    assert torch.tensor(used).sum(0).min() > 100


def test_training_with_enhancement_needs_a_source_of_enhanced_audio() -> None:
    with pytest.raises(InvalidConfig, match="there is no enhanced audio"):
        train(after_vae(p_enh=1.0), "quantize", 1)


def test_several_stages_can_learn_the_enhanced_latent_together() -> None:
    trained = train(after_vae(Dehum(), p_enh=1.0, enhanced_stages=2), "quantize", 0)
    raw_BDF, taught_BDF = torch.randn(2, 8, 5), torch.randn(2, 8, 5)
    stages = trained.quantize(raw_BDF, taught_BDF)
    taught_MD = taught_BDF.transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(stages.targets_KMD[1], taught_MD - stages.words_KMD[0])
    torch.testing.assert_close(stages.targets_KMD[2], stages.inputs_KMD[2])


def test_the_second_phase_can_start_from_a_file_of_the_first(tmp_path: Path) -> None:
    """Such a file has no codebooks yet, so they start from k-means, not from zeros."""
    first = recipe()
    first.load_state_dict(vae_weights())
    save_file(first.weights_for_inference(), tmp_path / "vae.safetensors")
    second = recipe(p_enh=0.0)
    second.start_from(tmp_path / "vae.safetensors")
    second.begin_phase("quantize")
    assert second.num_init_frames() == SETTINGS["kmeans_frames"]
    train(second, "quantize", 1)
    assert second.network.quantizer.codebooks_KND.any(-1).all()
