"""Every codec's recipe through the trainer: weights that tokenize, and exact resume."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmill.codecs import InvalidConfig, codec_info, load_codec, load_recipe
from speechmill.codecs.hasrd.config import read_hasrd_config
from speechmill.codecs.hasrd.weights import untrained_ssl
from speechmill.codecs.simwhisper.config import read_published
from speechmill.jobs.config import load_config
from speechmill.jobs.training.config import TrainConfig
from speechmill.pipeline.errors import InputError
from tests.codecs.dualcodec.goldens import WEIGHTS as DUALCODEC
from tests.codecs.focalcodec.small import tiny
from tests.codecs.hasrd.small import TINY as HASRD
from tests.codecs.simwhisper.golden import CONFIG as SIMWHISPER
from tests.codecs.simwhisper.whisper_file import whisper_file
from tests.conftest import REPOSITORY
from tests.corpus import write_corpus
from tests.jobs.training.runs import KEPT, run, run_until, tree, weights

MEL = {"mel_ffts": [512], "mel_bands": [20]}
ADVERSARIAL = {"steps": 4, "lr": 1e-3, "adversarial_from": 2}


def _focalcodec(folder: Path) -> dict[str, Any]:
    return {
        "codec": {"checkpoint": "untrained", "config": _json(folder, tiny(factor=2))},
        "phases": {
            "vocoder": ADVERSARIAL,
            "features": {"steps": 3, "lr": 1e-3, "betas": [0.9, 0.98]},
        },
    }


def _dualcodec(folder: Path) -> dict[str, Any]:
    options = {k: str(v) for k, v in DUALCODEC.items() if k.startswith("semantic")}
    codec = {"config": str(DUALCODEC["config"]), "checkpoint": str(DUALCODEC["checkpoint"])}
    settings = MEL | {"weights": {"semantic": 0}, "semantic_only": 0.5}
    return {
        "codec": codec | {"options": options},
        "phases": {"codec": ADVERSARIAL},
        "recipe": settings,
    }


def _simwhisper(folder: Path) -> dict[str, Any]:
    codec = {"checkpoint": "untrained", "config": str(SIMWHISPER)}
    return {"codec": codec, "phases": {"codec": ADVERSARIAL, "decoder": ADVERSARIAL}}


def _hasrd(folder: Path) -> dict[str, Any]:
    """With random centroids; test_fit_kmeans fits them to features."""
    save_file(
        untrained_ssl(read_hasrd_config("hasrd", HASRD), 0).state_dict(), folder / "ssl.safetensors"
    )
    begun = load_recipe("hasrd", config=HASRD, checkpoint="untrained").weights_for_inference()
    begun["centroids.codebooks_KND"].copy_(torch.randn(1, 64, 64))
    save_file(begun, folder / "centroids.safetensors")
    options = {"semantic_checkpoint": str(folder / "ssl.safetensors")}
    codec = {"checkpoint": f"{folder}/centroids.safetensors", "config": _json(folder, HASRD)}
    settings = MEL | {"kmeans_frames": 80, "kmeans_iterations": 3, "revive_below": 0.5}
    return {
        "codec": codec | {"options": options},
        "phases": {"codec": ADVERSARIAL},
        "recipe": settings,
    }


def _json(folder: Path, sizes: dict[str, Any]) -> str:
    (folder / "sizes.json").write_text(json.dumps(sizes))
    return str(folder / "sizes.json")


CODECS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "focalcodec": _focalcodec,
    "dualcodec": _dualcodec,
    "simwhisper": _simwhisper,
    "hasrd": _hasrd,
}


def train_config(folder: Path, name: str, *overrides: str) -> TrainConfig:
    """A run of a few steps over a few tones, with discriminators."""
    folder.mkdir(exist_ok=True)
    if not (folder / "shards").exists():
        write_corpus(folder / "shards", num_shards=2, clips_per_shard=4, seconds=0.6)
    own = CODECS[name](folder)
    given = {
        "shards": [f"{folder}/shards/"],
        "output": f"{folder}/run",
        "recipe": MEL,
        "data": {"crop_seconds": 0.4, "batch_size": 2, "shuffle_buffer": 4, "threads": 1},
        "discriminators": {
            "periods": [2], "ffts": [128], "period_channels": [4, 8], "band_channels": 4
        },
        "validation": {"shards": [f"{folder}/shards/"], "clips": 2, "seconds": 0.5, "every": 3},
        "checkpoint": {"every": 3},
        "workers": {"count": 0, "num_gpus": 0},
        "log": {"every": 1},
        **own,
    }  # fmt: skip
    given["codec"]["name"] = name
    (folder / "train.yaml").write_text(json.dumps(given))
    return load_config(TrainConfig, folder / "train.yaml", list(overrides))


@pytest.mark.parametrize("name", CODECS)
def test_a_run_of_every_recipe_leaves_weights_that_tokenize(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = train_config(tmp_path, name)
    root = run(config)
    files = {"config": config.codec.config, **config.codec.options}
    codec = load_codec(name, **files, checkpoint=root / "best.safetensors")
    assert codec.info.trained
    assert codec.info.revision != codec_info(name, **files, checkpoint="untrained").revision
    num_samples_B = torch.tensor([codec.info.sample_rate])
    codes_BKF = codec.encode(0.1 * torch.randn(1, codec.info.sample_rate), num_samples_B)
    num_frames_B = torch.tensor([codec.info.num_frames(codec.info.sample_rate)])
    assert codec.decode(codes_BKF, num_frames_B).isfinite().all()
    rows = [
        json.loads(line)
        for path in sorted((root / "curves").iterdir())
        for line in path.read_text().splitlines()
    ]
    without_codes = {"vocoder"}
    for row in rows:
        has_use = row.keys() >= {"perplexity", "lowest_perplexity", "codes_used"}
        assert has_use == (row["phase"] not in without_codes)
    with_loss = [row["step"] for row in rows if "discriminators" in row]
    assert with_loss == ([3, 4, 7, 8] if name == "simwhisper" else [3, 4])


@pytest.mark.parametrize(("name", "step"), [("focalcodec", 5), ("hasrd", 4)])
def test_a_run_that_crashed_ends_like_an_uninterrupted_one(
    name: str, step: int, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    whole = run(train_config(tmp_path, name, f"output={tmp_path}/whole"))
    torch.manual_seed(0)
    config = train_config(tmp_path, name)
    run_until(config, step)
    resumed = run(config)
    assert tree(resumed, *KEPT) == tree(whole, *KEPT)
    assert weights(resumed) == weights(whole)


@pytest.mark.parametrize("name", CODECS)
def test_bf16_trains_too(name: str, tmp_path: Path) -> None:
    config = train_config(tmp_path, name, "precision=bf16", "validation.shards=[]")
    first = next(iter(config.phases))
    config.phases = {phase: replace(s, steps=1) for phase, s in config.phases.items()}
    root = run(config)
    rows = (root / "curves" / "step-00000001.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["phase"] == first


@pytest.mark.parametrize("name", CODECS)
def test_the_page_names_every_loss_with_its_weight(name: str, tmp_path: Path) -> None:
    own = train_config(tmp_path, name).codec
    made = load_recipe(
        name,
        checkpoint="untrained",
        config=own.config,
        settings={"weights": {"semantic": 0}} if name == "dualcodec" else {},
    )
    page = (REPOSITORY / "docs/guide/recipes.md").read_text()
    for loss, weight in made.weights.items():
        if loss != "semantic":  # it depends on widths that the small network does not have
            assert f"{loss} {weight:g}" in page


def test_runs_with_a_real_and_a_random_encoder_train_the_same_other_parts(tmp_path: Path) -> None:
    file = whisper_file(tmp_path, read_published(json.loads(SIMWHISPER.read_text())))
    trained = {}
    for whisper in (str(file), "null"):
        output = f"output={tmp_path}/{Path(whisper).stem}"
        config = train_config(tmp_path, "simwhisper", f"recipe.whisper={whisper}", output)
        config.phases = {"codec": replace(config.phases["codec"], steps=2)}
        trained[whisper] = load_file(run(config) / "last.safetensors")
    real, random = trained.values()
    stored = load_file(file)
    for name, value in real.items():
        if name.startswith("acoustic_encoder."):
            encoder_name = name.replace("acoustic_encoder.", "model.encoder.")
            assert torch.equal(value, stored[encoder_name].float())
            assert name.endswith(("norm.weight", "norm.bias")) != torch.any(random[name] != value)
        elif not name.startswith("downsample.to_latent."):  # which the first batch rescales
            torch.testing.assert_close(random[name], value, atol=0.02, rtol=0)  # two steps apart


def test_discriminators_in_a_phase_without_audio_are_refused(tmp_path: Path) -> None:
    config = train_config(tmp_path, "focalcodec", "phases.features.adversarial_from=0")
    with pytest.raises(InputError, match="focalcodec makes no audio in this phase"):
        run(config)


def test_a_codec_without_a_recipe_is_refused(tmp_path: Path) -> None:
    config = train_config(tmp_path, "focalcodec")
    config.codec.name, config.codec.config = "null", None
    with pytest.raises(InvalidConfig, match="null cannot be trained"):
        run(config)
