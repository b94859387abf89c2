"""What is known of the published codecs, and how their weights are found."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from speech_codecs import (
    CheckpointError,
    InvalidConfig,
    codec_card,
    codec_info,
    list_codecs,
    load_codec,
)
from speech_codecs.pure.codec import PureCodec
from tests.codecs.cases import PURE
from tests.codecs.sizes import count_parameters

RELEASED = [name for name in list_codecs() if codec_card(name).files]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Record what is asked of the hub, which cannot be reached."""
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


@pytest.mark.parametrize("name", RELEASED)
def test_without_a_checkpoint_a_released_codec_takes_its_published_weights(
    name: str, hub: list[tuple[Any, ...]]
) -> None:
    with pytest.raises(CheckpointError, match=r"cannot fetch 'hf://.*no route.*'untrained'"):
        load_codec(name)
    url = codec_card(name).files["checkpoint"].partition("#")[0]
    [(repo, file, revision)] = hub
    assert url == f"hf://{repo}{'' if revision is None else f'@{revision}'}/{file}"


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


def test_untrained_weights_are_asked_for_by_name_or_by_a_config(hub: list[tuple[Any, ...]]) -> None:
    sizes = {"encoder_config": {"num_layers": 5}}
    for arguments in ({"checkpoint": "untrained"}, {"config": sizes}):
        assert not codec_info("focalcodec-50hz", **arguments).trained
    assert hub == []


def test_a_checkpoint_loads_only_with_the_digest_that_was_asked_for(weights: Path) -> None:
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    arguments = {"config": PURE, "checkpoint": weights}
    assert load_codec("pure", sha256=digest, **arguments).info.checkpoint_sha256 == digest
    assert load_codec("pure", config=PURE, checkpoint=f"{weights}#sha256={digest.upper()}")
    for find in (load_codec, codec_info):
        with pytest.raises(CheckpointError, match=f"{digest}, expected {'0' * 64}"):
            find("pure", sha256="0" * 64, **arguments)


@pytest.mark.parametrize("checkpoint", [None, "untrained"])
def test_a_digest_of_no_file_is_refused(checkpoint: str | None) -> None:
    with pytest.raises(InvalidConfig, match="no checkpoint is named"):
        load_codec("pure-4k", checkpoint=checkpoint, sha256="0" * 64)


def test_what_is_no_digest_is_refused(weights: Path) -> None:
    with pytest.raises(CheckpointError, match="'abc' is no sha256"):
        load_codec("pure", config=PURE, checkpoint=weights, sha256="abc")
