"""HASRD's semantic codebook, fitted to shards, and the codec that uses it."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from speechmill.codecs import codec_info, load_codec
from speechmill.codecs.errors import CheckpointError, InvalidConfig
from speechmill.codecs.hasrd.config import read_hasrd_config
from speechmill.codecs.hasrd.weights import untrained_ssl
from speechmill.jobs.commands.fit_kmeans import fit_codebook
from speechmill.jobs.config import load_config
from speechmill.jobs.display import Display
from speechmill.jobs.training.config import TrainedCodec
from speechmill.jobs.training.data import CropBatch
from speechmill.jobs.training.kmeans import FitConfig, KMeansFit
from speechmill.pipeline.errors import InputError
from tests.codecs.hasrd.small import TINY, WHISPER
from tests.codecs.speech import padded, speech
from tests.conftest import REPOSITORY
from tests.corpus import encode, tar_bytes, write_corpus
from tests.jobs.conftest import invoke

SMALL = TINY | {"semantic_codebook_size": 12}
_YAML = """
shards: [{folder}/shards/]
output: {folder}/out
codec:
  name: hasrd
  checkpoint: untrained
  config: {folder}/small.json
  options: {{semantic_checkpoint: {folder}/ssl.safetensors}}
frames: 600
restarts: 2
data: {{crop_seconds: 0.5, batch_size: 2, shuffle_buffer: 4, threads: 1}}
checkpoint: {{every: 2}}
threads: 1
device: cpu
"""
QUIET = Display(Console(quiet=True))
WRITTEN = ("checkpoint.safetensors", "config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return filled(tmp_path)


def filled(folder: Path) -> Path:
    """Write shards, a self-supervised model and a configuration to fit with both."""
    write_corpus(folder / "shards", num_shards=3, clips_per_shard=4, seconds=0.5)
    (folder / "small.json").write_text(json.dumps(SMALL))
    save_file(
        untrained_ssl(read_hasrd_config("hasrd", SMALL), 0).state_dict(), folder / "ssl.safetensors"
    )
    (folder / "fit.yaml").write_text(_YAML.format(folder=folder))
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an uninterrupted fit."""
    folder = filled(tmp_path_factory.mktemp("whole"))
    fit_codebook(config(folder), QUIET)
    return written(folder / "out")


def config(folder: Path, *overrides: str) -> FitConfig:
    return load_config(FitConfig, folder / "fit.yaml", list(overrides))


def written(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in WRITTEN}


def test_the_command_fits_centroids_that_the_codec_tokenizes_with(folder: Path) -> None:
    done = invoke("fit-kmeans", folder / "fit.yaml")
    assert done.exit_code == 0, done.output
    assert "frames 6" in done.stdout
    files = {
        "config": folder / "out" / "config.json",
        "checkpoint": folder / "out" / "checkpoint.safetensors",
    }
    codec = load_codec("hasrd", **files, semantic_checkpoint=folder / "ssl.safetensors")
    audio_BT, num_samples_B = padded([speech(16_000), speech(9_000, 1)])
    codes_BKF = codec.encode(audio_BT, num_samples_B)
    centroids_NH = load_file(files["checkpoint"])["centroids.codebooks_KND"][0]
    assert torch.equal(codec.network.centroids.codebooks_KND[0], centroids_NH)
    assert len(codes_BKF[0, 0].unique()) > 2
    (folder / "other.safetensors").write_bytes((folder / "ssl.safetensors").read_bytes() + b" ")
    with pytest.raises(CheckpointError, match="expected"):
        load_codec("hasrd", **files, semantic_checkpoint=folder / "other.safetensors")


@pytest.mark.parametrize("stop", [1, 6, 13])
def test_a_fit_that_was_stopped_ends_like_an_uninterrupted_one(
    folder: Path, whole: dict[str, bytes], stop: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    points: Callable[[KMeansFit, CropBatch], torch.Tensor] = KMeansFit._points
    calls = []

    def crash(self: KMeansFit, batch: CropBatch) -> torch.Tensor:
        calls.append(batch)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return points(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(KMeansFit, "_points", crash)
        with pytest.raises(KeyboardInterrupt):
            fit_codebook(config(folder), QUIET)
    fit_codebook(config(folder), QUIET)
    assert written(folder / "out") == whole


def test_a_fit_to_more_frames_continues_the_one_to_fewer(
    folder: Path, whole: dict[str, bytes]
) -> None:
    fit_codebook(config(folder, "frames=300"), QUIET)
    before = written(folder / "out")
    fit_codebook(config(folder, "frames=300"), QUIET)
    assert written(folder / "out") == before
    fit_codebook(config(folder), QUIET)
    assert written(folder / "out") == whole
    with pytest.raises(InputError, match="seed was 777 and is 1"):
        fit_codebook(config(folder, "seed=1"), QUIET)


def silence(folder: Path) -> str:
    zeros = encode(torch.zeros(8_000).numpy())
    (folder / "silent.tar").write_bytes(tar_bytes([(f"{n}.flac", zeros) for n in range(6)]))
    return f"shards=[{folder}/silent.tar]"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("frames=0", "frames is 0"),
        ("data.crop_seconds=0.001", "under one frame"),
        ("silent", "a whole epoch was digital silence"),
    ],
)
def test_an_impossible_fit_is_refused_with_the_cure(
    folder: Path, override: str, message: str
) -> None:
    overrides = [silence(folder)] if override == "silent" else [override]
    with pytest.raises((InputError, InvalidConfig), match=message):
        fit_codebook(config(folder, *overrides), QUIET)


def test_a_codec_without_its_semantic_model_and_one_with_centroids_are_refused(
    folder: Path,
) -> None:
    bare = config(folder)
    bare.codec.options = {}
    other = replace(bare, codec=TrainedCodec("pure-16k-small", "untrained"))
    with pytest.raises(InputError, match="no codebook of k-means centroids"):
        fit_codebook(other, QUIET)
    with pytest.raises(InvalidConfig, match="give semantic_checkpoint"):
        fit_codebook(bare, QUIET)
    fit_codebook(config(folder, "frames=100"), QUIET)
    again = f"codec.checkpoint={folder}/out/checkpoint.safetensors"
    with pytest.raises(InputError, match="holds centroids already"):
        fit_codebook(config(folder, again, f"output={folder}/again"), QUIET)


def test_centroids_are_fitted_to_features_of_whisper_too(folder: Path) -> None:
    sizes = SMALL | {"ssl": WHISPER}
    (folder / "small.json").write_text(json.dumps(sizes))
    ssl = untrained_ssl(read_hasrd_config("hasrd", sizes), 0)
    save_file(ssl.state_dict(), folder / "ssl.safetensors")
    fit_codebook(config(folder, "frames=100", "restarts=1"), QUIET)
    found = load_file(folder / "out" / "checkpoint.safetensors")["centroids.codebooks_KND"][0]
    assert found.shape == (12, 64)
    assert len(found.unique(dim=0)) == 12
    assert json.loads((folder / "out" / "config.json").read_text())["ssl"] == {
        **WHISPER,
        "num_mel_bins": 80,
    }


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "configs" / "fit-kmeans").glob("*.yaml")), ids=lambda p: p.stem
)
def test_a_shipped_configuration_is_read(path: Path) -> None:
    shipped = load_config(FitConfig, path, [])
    assert shipped.codec.options["semantic_checkpoint"]
    assert codec_info(shipped.codec.name, checkpoint="untrained").num_semantic_codebooks == 1
