"""Facts about the published codecs, and how their weights are found."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from speechmill.codecs import (
    CheckpointError,
    InvalidConfig,
    codec_card,
    codec_info,
    list_codecs,
    load_codec,
)
from speechmill.codecs.fetch import fetch
from speechmill.codecs.pure.codec import PureCodec
from tests.codecs.cases import PURE
from tests.codecs.sizes import count_parameters
from tests.codecs.speech import speech
from tests.codecs.tokens import encode_alone

RELEASED = [name for name in list_codecs() if codec_card(name).files]
REMOTE = [name for name in RELEASED if codec_card(name).files["checkpoint"].startswith("hf://")]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record the requests to a hub that cannot be reached."""
    asked: list[tuple[Any, ...]] = []

    def download(repo: str, name: str, *, revision: str | None, cache_dir: Path) -> str:
        asked.append((repo, name, revision))
        raise OSError("no route to host")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    return asked


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    codec = load_codec("pure", config=PURE)
    assert isinstance(codec, PureCodec)
    save_file(codec.network.state_dict(), tmp_path / "pure.safetensors")
    return tmp_path / "pure.safetensors"


@pytest.mark.parametrize("name", list_codecs())
def test_the_parameters_are_those_of_the_networks(name: str) -> None:
    assert codec_card(name).parameters == count_parameters(name)


@pytest.mark.parametrize("name", list_codecs())
def test_every_codec_names_its_paper_and_licence_or_says_that_they_are_unknown(name: str) -> None:
    card = codec_card(name)
    assert card.paper in ("none", "unknown") or card.paper.startswith("arXiv ")
    assert (card.licence == "none published") == (not card.files)


@pytest.mark.parametrize("name", REMOTE)
def test_without_a_checkpoint_a_released_codec_takes_its_published_weights(
    name: str, hub: list[tuple[Any, ...]]
) -> None:
    with pytest.raises(CheckpointError, match=r"cannot fetch 'hf://.*no route.*'untrained'"):
        load_codec(name)
    url = codec_card(name).files["checkpoint"].partition("#")[0]
    [(repo, file, revision)] = hub
    assert url == f"hf://{repo}{'' if revision is None else f'@{revision}'}/{file}"


@pytest.mark.parametrize("name", sorted(set(RELEASED) - set(REMOTE)))
def test_a_codec_that_ships_with_the_package_loads_without_a_network(
    name: str, hub: list[tuple[Any, ...]]
) -> None:
    codec = load_codec(name)
    assert codec.info == codec_info(name)
    assert codec.info.title == name
    _, _, sha256 = codec_card(name).files["checkpoint"].partition("#sha256=")
    assert codec.info.checkpoint_sha256 == sha256
    assert codec.info.revision != codec_info(name, checkpoint="untrained").revision
    assert hub == []


def test_the_small_codec_ships_and_is_small() -> None:
    assert "pure-16k-small" in set(RELEASED) - set(REMOTE)
    assert fetch(codec_card("pure-16k-small").files["checkpoint"]).stat().st_size <= 8_000_000


def test_half_precision_on_disk_is_float32_in_the_network_to_the_last_bit(tmp_path: Path) -> None:
    shipped = load_file(fetch(codec_card("pure-16k-small").files["checkpoint"]))
    assert {value.dtype for value in shipped.values()} == {torch.float16}
    whole = {name: value.float() for name, value in shipped.items()}
    save_file(whole, tmp_path / "whole.safetensors")
    codecs = [load_codec("pure-16k-small", checkpoint=tmp_path / "whole.safetensors")]
    codecs.append(load_codec("pure-16k-small"))
    for codec in codecs:
        assert isinstance(codec, PureCodec)
        state = codec.network.state_dict()
        assert all(torch.equal(state[name], value) for name, value in whole.items())
    ours, theirs = (encode_alone(codec, speech(8_000)) for codec in codecs)
    assert torch.equal(ours, theirs)


def test_the_identity_of_a_pinned_release_is_known_without_fetching_it(
    hub: list[tuple[Any, ...]],
) -> None:
    info = codec_info("focalcodec-25hz")
    assert (info.trained, hub) == (True, [])
    assert str(info.checkpoint_sha256).startswith("07a5ca4b")
    assert (
        codec_info("simwhisper-16k").revision
        != codec_info("simwhisper-16k", checkpoint="untrained").revision
    )


def test_untrained_weights_are_requested_by_name_or_by_a_config(hub: list[tuple[Any, ...]]) -> None:
    sizes = {"encoder_config": {"num_layers": 5}}
    for arguments in ({"checkpoint": "untrained"}, {"config": sizes}):
        assert not codec_info("focalcodec-50hz", **arguments).trained
    assert hub == []


def test_a_checkpoint_loads_only_with_the_requested_digest(weights: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    arguments = {"config": PURE, "checkpoint": weights}
    assert load_codec("pure", sha256=digest, **arguments).info.checkpoint_sha256 == digest
    assert load_codec("pure", config=PURE, checkpoint=f"{weights}#sha256={digest.upper()}")
    for find in (load_codec, codec_info):
        with pytest.raises(CheckpointError, match=f"{digest}, expected {'0' * 64}"):
            find("pure", sha256="0" * 64, **arguments)


@pytest.mark.parametrize("checkpoint", [None, "untrained"])
def test_a_digest_without_a_file_is_refused(checkpoint: str | None) -> None:
    with pytest.raises(InvalidConfig, match="no checkpoint is named"):
        load_codec("pure-4k", checkpoint=checkpoint, sha256="0" * 64)


def test_a_malformed_digest_is_refused(weights: Path) -> None:
    with pytest.raises(CheckpointError, match="'abc' is not a sha256"):
        load_codec("pure", config=PURE, checkpoint=weights, sha256="abc")
