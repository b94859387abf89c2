"""Every configuration under configs/train fits the recipe of its codec."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from speechmill.codecs import codec_info
from speechmill.codecs.registry import file_arguments
from speechmill.jobs.config import load_config
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.worker import build_recipe
from tests.conftest import REPOSITORY

CONFIGS = sorted((REPOSITORY / "configs" / "train").glob("*.yaml"))
# Files that the shipped configurations read; here the networks stay without weights.
NO_FILES = ("codec.checkpoint=untrained", "codec.config=null")
FILES = ("semantic_checkpoint", "semantic_stats")
# The real encoder and its control, see configs/train/simwhisper-tiny.yaml.
TWINS = {"real": [], "random": ["recipe.whisper=null", "output=runs/control"]}
META = torch.device("meta")
# PyTorch lists its constructors when a device context is first used. transformers replaces some of
# them while it loads a model, so the list is made before any test.
with META:
    torch.empty(0)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_shipped_configuration_fits_its_recipe(path: Path) -> None:
    config = load_config(TrainConfig, path, list(NO_FILES))
    options = config.codec.options
    config.codec.options = {name: options[name] for name in options if name not in FILES}
    files = file_arguments(config.codec.name)[1]
    config.recipe = {name: value for name, value in config.recipe.items() if name not in files}
    with META:
        recipe = build_recipe(config)
    assert recipe.weights.keys() >= dict(config.recipe.get("weights", {})).keys()
    info = codec_info(config.codec.name, checkpoint="untrained")
    assert info.output_sample_rate == recipe.sample_rate


@pytest.mark.parametrize("name", ["simwhisper-tiny", "simwhisper-base"])
def test_the_control_differs_in_the_encoder_alone(name: str) -> None:
    path = REPOSITORY / "configs" / "train" / f"{name}.yaml"
    real, random = (asdict(load_config(TrainConfig, path, TWINS[kind])) for kind in TWINS)
    assert real["recipe"].pop("whisper").endswith("/model.safetensors")
    assert random["recipe"].pop("whisper") is None
    del real["output"], random["output"]
    assert real == random
