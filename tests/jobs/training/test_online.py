"""Enhanced audio that is computed during training."""

from pathlib import Path

import numpy as np
import pytest
import torch

from speechmill.jobs.training.online import OnlineEnhancer
from speechmill.pipeline.enhance.api import EnhancerSettings, load_enhancer
from speechmill.pipeline.errors import InputError
from tests.corpus import tone
from tests.jobs.training.runs import run, run_until, train_config, tree, weights

ONLINE = ("enhancement=online", "enhancer.name=spectral-gating", "log.every=1")
SHORT = ("phases.vae.steps=2", "phases.quantize.steps=4", "validation.shards=[]")


def test_a_run_with_an_enhancer_that_crashed_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(train_config(tmp_path, *ONLINE, *SHORT, output="whole"))
    config = train_config(tmp_path, *ONLINE, *SHORT, output="crashed")
    run_until(config, 5)
    resumed = run(config)
    assert tree(resumed, "curves") == tree(whole, "curves")
    assert weights(resumed) == weights(whole)
    clean = run(train_config(tmp_path, *SHORT, output="clean"))
    assert weights(clean) != weights(whole)
    with pytest.raises(InputError, match=r"enhancer_revision was '\w{16}' and is '\w{16}'"):
        run(train_config(tmp_path, *ONLINE, *SHORT, "enhancer.sample_rate=8000", output="crashed"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["enhancement=online"], r"no enhancer is named; set enhancer\.name"),
        (ONLINE[1:], "enhancer is set, but enhancement is clean; set enhancement=online"),
        (["enhancement=live"], "enhancement is 'live'; use one of none, offline, online, clean"),
        ([ONLINE[0], "enhancer.name=gtcrn"], r"enhancer\.model is not set"),
    ],
)
def test_a_mistake_is_named_with_its_cure(
    overrides: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        train_config(tmp_path, *overrides)


@pytest.mark.parametrize("sample_rate", [16_000, 24_000])
def test_enhanced_batches_of_any_rate_have_less_noise_and_keep_their_time(sample_rate: int) -> None:
    enhance = OnlineEnhancer(load_enhancer(EnhancerSettings("spectral-gating")))
    enhance.sample_rate = sample_rate
    clean_T = np.repeat([0, 1, 0, 1], sample_rate // 2) * tone(2.0, sample_rate)
    noise_BT = 0.05 * np.random.default_rng(0).standard_normal((2, len(clean_T)))
    noisy_BT = torch.from_numpy(clean_T + noise_BT).float().requires_grad_()
    enhanced_BT = enhance(noisy_BT)
    assert enhanced_BT.shape == noisy_BT.shape
    assert enhanced_BT.dtype == torch.float32
    assert not enhanced_BT.requires_grad
    shifts = range(-3, 4)
    errors = [float(np.square(np.roll(enhanced_BT[0], s) - clean_T).mean()) for s in shifts]
    assert shifts[int(np.argmin(errors))] == 0
    pause = slice(sample_rate, sample_rate * 3 // 2)
    noise = float(np.square(noise_BT[0, pause]).mean())
    assert float(enhanced_BT[0, pause].square().mean()) < 0.5 * noise
    assert enhance(noisy_BT[:0]).shape == (0, len(clean_T))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("gtcrn", "gtcrn/model_trained_on_dns3.tar"),
        ("ul-unas", "ul-unas/ulunas_stream_simple.onnx"),
    ],
)
def test_a_run_trains_with_each_published_enhancer(
    name: str, file: str, tmp_path: Path, models: Path
) -> None:
    enhancer = f"enhancer={{name: {name}, model: {models / file}}}"
    root = run(train_config(tmp_path, ONLINE[0], enhancer, *SHORT, "precision=bf16"))
    assert (root / "last.safetensors").exists()
