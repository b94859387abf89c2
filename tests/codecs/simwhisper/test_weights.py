"""Configurations and checkpoints, the authors' and wrong ones."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from speechmill.codecs import CheckpointError, InvalidConfig, codec_info, load_codec
from speechmill.codecs.checkpoint import load_strict
from speechmill.codecs.simwhisper.config import VARIANTS, SimWhisperConfig, read_published
from speechmill.codecs.simwhisper.model import SimWhisperNetwork
from speechmill.codecs.simwhisper.weights import from_published
from tests.codecs.simwhisper.golden import CHECKPOINT, CONFIG, golden, published_keys


def changed_config(section: str, **values: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(CONFIG.read_text())
    config["generator_params"][section] |= values
    return config


def tokens_of(checkpoint: Path) -> Tensor:
    audio_BT = golden()["s1p1.audio"][None]
    codec = load_codec("simwhisper", config=CONFIG, checkpoint=checkpoint)
    return codec.encode(audio_BT, torch.tensor([audio_BT.shape[1]]))[0]


def test_the_full_size_network_has_exactly_the_published_keys() -> None:
    with torch.device("meta"):
        network = SimWhisperNetwork(VARIANTS["simwhisper-16k"])
        published = {key: torch.empty(shape) for key, shape in published_keys().items()}
    load_strict(network, from_published(published))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 1) == 291.3


def test_a_config_replaces_only_what_it_names_of_a_variant() -> None:
    half = {"downsample": {"stack_factor": 2}, "upsample": {"stack_factor": 2}}
    tiny = VARIANTS["simwhisper-16k-tiny"]
    assert read_published(half, tiny) == replace(tiny, stack=2)
    assert read_published(half) == replace(VARIANTS["simwhisper-16k"], stack=2)
    assert codec_info("simwhisper-16k-tiny", config=half).frame_rate == 25


@pytest.mark.parametrize("key", [None, "model"])
def test_the_authors_pickle_loads_with_and_without_its_key(tmp_path: Path, key: str | None) -> None:
    state = load_file(CHECKPOINT)
    torch.save(state if key is None else {key: state, "step": 1}, tmp_path / "codec.pt")
    assert torch.equal(tokens_of(tmp_path / "codec.pt"), golden()["s1p1.codes"].long())


def test_tables_that_follow_from_the_configuration_may_be_missing(tmp_path: Path) -> None:
    names = ("positional_embedding", "filter", "num_levels", "dim_base_index", "window")
    state = {key: x for key, x in load_file(CHECKPOINT).items() if not key.endswith(names)}
    save_file(state, tmp_path / "x.safetensors")
    assert torch.equal(tokens_of(tmp_path / "x.safetensors"), golden()["s1p1.codes"].long())


def test_the_checkpoint_of_another_size_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"missing \(\d+\).*misshapen \(\d+\)"):
        load_codec("simwhisper-16k", checkpoint=CHECKPOINT)


def test_other_levels_than_those_of_the_checkpoint_are_refused_although_every_weight_fits() -> None:
    config = changed_config("quantizer", num_levels_per_group=[8, 5, 5, 5])
    with pytest.raises(CheckpointError, match=r"\[8, 7, 6, 6\], not \[8, 5, 5, 5\]"):
        load_codec("simwhisper", config=config, checkpoint=CHECKPOINT)


def test_a_foreign_key_is_named(tmp_path: Path) -> None:
    state = load_file(CHECKPOINT) | {"vocos.extra": torch.ones(1)}
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"unexpected \(1\): vocos\.extra"):
        load_codec("simwhisper", config=CONFIG, checkpoint=tmp_path / "x.safetensors")


def test_an_empty_configuration_is_that_of_the_released_model() -> None:
    assert read_published({"generator_params": {}}) == SimWhisperConfig()
    full = codec_info("simwhisper-16k", checkpoint="untrained")
    assert (full.num_codebooks, full.codebook_sizes[0], full.frame_rate) == (8, 2016, 12.5)
    assert round(full.kbps, 3) == 1.098
    assert full.title == "simwhisper-16k (untrained)"


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("acoustic_encoder", {"d_modle": 32}, r"acoustic_encoder\.d_modle'?, did you mean 'd_mod"),
        ("acoustic_encoder", {"is_acoustic": False}, "is_acoustic is False, only True"),
        ("acoustic_encoder", {"encoder_attention_heads": 5}, "32 does not divide into 5 heads"),
        ("vocos", {"padding": "center"}, "vocos.padding is 'center', only 'same'"),
        ("upsample", {"out_dim": 16}, "upsample.out_dim is 16, but 32 elsewhere"),
        ("quantizer", {"num_groups": 3}, "latent_dim is 16, must be num_groups=3"),
        ("quantizer", {"num_levels_per_group": [8, 7, 6, 1]}, "at least 2"),
        ("downsample", {"stack_factor": 3}, "stack_factor"),
        ("acoustic_encoder", {"d_model": "32"}, "in_dim is 32, but '32' elsewhere"),
        ("quantizer", {"eps": "small"}, "fsq_eps is 'small', must be like 0.001"),
    ],
)
def test_a_bad_configuration_is_refused(section: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        codec_info("simwhisper", config=changed_config(section, **values))


def test_an_unknown_section_is_refused() -> None:
    with pytest.raises(InvalidConfig, match="'vocoss', did you mean 'vocos'"):
        codec_info("simwhisper", config={"vocoss": {}})


def test_keeping_partial_frames_changes_the_revision() -> None:
    kept = codec_info("simwhisper-16k", checkpoint="untrained", keep_partial=True)
    assert kept.revision != codec_info("simwhisper-16k", checkpoint="untrained").revision
    assert kept.num_frames(161) == 1


def test_untrained_codes_are_diverse_and_depend_on_the_seed() -> None:
    config = changed_config("acoustic_encoder")
    first, second = (load_codec("simwhisper", config=config) for _ in range(2))
    audio_BT = golden()["s4.audio"][None]
    codes_BKF = first.encode(audio_BT, torch.tensor([audio_BT.shape[1]]))
    assert torch.equal(codes_BKF, second.encode(audio_BT, torch.tensor([audio_BT.shape[1]])))
    assert all(len(codes_F.unique()) > 25 for codes_F in codes_BKF[0])
    assert not first.info.trained
    assert first.info == codec_info("simwhisper", config=config)
