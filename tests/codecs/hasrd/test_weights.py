"""Configurations and checkpoints, good and bad."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from speechmill.codecs import CheckpointError, InvalidConfig, codec_info, load_codec
from speechmill.codecs.checkpoint import fold_weight_norm
from speechmill.codecs.fetch import digest
from speechmill.codecs.hasrd.config import VARIANTS, read_hasrd_config
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import SSLModel
from speechmill.codecs.hasrd.weights import untrained_hasrd, untrained_ssl
from tests.codecs.hasrd.small import TINY, codec
from tests.codecs.speech import speech
from tests.codecs.tokens import encode_alone

SIZES = read_hasrd_config("hasrd", TINY)
PARAMETERS = {"hasrd-2k": (277.7, 50.5), "hasrd-2k-wavlm-base": (73.1, 50.0)}


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    ours = {
        "checkpoint": tmp_path / "hasrd.safetensors",
        "semantic_checkpoint": tmp_path / "ssl.safetensors",
    }
    save_file(untrained_hasrd(SIZES, 1).state_dict(), ours["checkpoint"])
    save_file(untrained_ssl(SIZES, 1).state_dict(), ours["semantic_checkpoint"])
    return ours


def test_the_full_size_network_has_exactly_the_keys_of_transformers() -> None:
    import transformers

    config = VARIANTS["hasrd-2k"]
    sizes = transformers.WavLMConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_attention_heads=16,
        num_hidden_layers=24,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
    )
    with torch.device("meta"):
        state = transformers.WavLMModel(sizes).state_dict()
        network = SSLModel(config.ssl, config.semantic_layer)
    network.load_transformers(state)


@pytest.mark.parametrize("name", PARAMETERS)
def test_full_size_networks_have_the_expected_size(name: str) -> None:
    with torch.device("meta"):
        network = HasrdNetwork(VARIANTS[name])
        ssl = SSLModel(VARIANTS[name].ssl, VARIANTS[name].semantic_layer)
    fold_weight_norm(network)
    count = [sum(x.numel() for x in part.state_dict().values()) for part in (ssl, network)]
    assert tuple(round(n / 1e6, 1) for n in count) == PARAMETERS[name]
    assert network.centroids.codebooks_KND.shape == (1, 1024, VARIANTS[name].ssl.hidden_size)


def test_saved_weights_load_with_their_own_tokens(files: dict[str, Path]) -> None:
    trained = load_codec("hasrd", config=TINY, **files)
    assert trained.info == codec_info("hasrd", config=TINY, **files)
    assert (trained.info.trained, codec().info.trained) == (True, False)
    codes_KF = encode_alone(trained, speech(9_000))
    again_KF = encode_alone(load_codec("hasrd", config=TINY, **files), speech(9_000))
    assert torch.equal(codes_KF, again_KF)
    assert not torch.equal(codes_KF, encode_alone(codec(), speech(9_000)))


def test_each_file_changes_the_revision(files: dict[str, Path]) -> None:
    partial = [{}, *({key: path} for key, path in files.items()), files]
    revisions = {codec_info("hasrd", config=TINY, **chosen).revision for chosen in partial}
    assert len(revisions) == 4


def test_decoding_works_without_the_semantic_checkpoint_and_encoding_names_it(
    files: dict[str, Path],
) -> None:
    decoder = load_codec("hasrd", config=TINY, checkpoint=files["checkpoint"])
    both = load_codec("hasrd", config=TINY, **files)
    codes_BKF = encode_alone(both, speech(3_200))[None]
    frames_B = torch.tensor([10])
    assert torch.equal(decoder.decode(codes_BKF, frames_B), both.decode(codes_BKF, frames_B))
    with pytest.raises(InvalidConfig, match="give semantic_checkpoint"):
        encode_alone(decoder, speech(3_200))


def test_training_and_inference_checkpoints_give_the_same_audio(tmp_path: Path) -> None:
    training = HasrdNetwork(SIZES)
    training.centroids.codebooks_KND.normal_()
    save_file(training.state_dict(), tmp_path / "training.safetensors")
    fold_weight_norm(training)
    save_file(training.state_dict(), tmp_path / "inference.safetensors")
    codes_BKF = torch.randint(0, 32, (1, 4, 9))
    audio = [
        load_codec("hasrd", config=TINY, checkpoint=path).decode(codes_BKF, torch.tensor([9]))
        for path in sorted(tmp_path.iterdir())
    ]
    assert torch.equal(*audio)


def test_centroids_of_another_semantic_checkpoint_are_refused(files: dict[str, Path]) -> None:
    right = TINY | {"semantic_sha256": digest(files["semantic_checkpoint"])}
    load_codec("hasrd", config=right, **files)
    wrong = TINY | {"semantic_sha256": "0" * 64}
    with pytest.raises(CheckpointError, match="0" * 64):
        load_codec("hasrd", config=wrong, **files)


def test_checkpoints_of_another_size_are_refused(files: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match=r"misshapen \(\d+\)"):
        load_codec("hasrd", config=TINY | {"dim": 16}, checkpoint=files["checkpoint"])
    with pytest.raises(CheckpointError, match=r"missing \(\d+\): encoder\.layers\.4"):
        load_codec("hasrd", config=TINY | {"semantic_layer": 5}, **files)
    with pytest.raises(CheckpointError, match=r"unexpected \(1\): layer_logits"):
        load_codec("hasrd", config=TINY | {"acoustic_source": "same"}, **files)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"semantic_layr": 3}, "did you mean 'semantic_layer'"),
        ({"ssl": {"hiden_size": 3}}, "did you mean 'hidden_size'"),
        ({"ssl": "wavlm"}, "ssl is 'wavlm', not a mapping"),
        ({"ssl": {"model_type": "data2vec"}}, "model_type is 'data2vec'.*wavlm, hubert"),
        ({"ssl": {"num_attention_heads": 7}}, "hidden_size 1024 is not a multiple of 7"),
        ({"ssl": {"conv_kernel": [10]}}, "equally long"),
        ({"semantic_layer": 25}, "semantic_layer is 25, must be 1 to 24"),
        ({"num_codebooks": 5}, "num_codebooks is 5, must be 1 to 4"),
        ({"acoustic_source": "none"}, "acoustic_source is 'none'"),
        ({"acoustic_quantizer": "fsq"}, "acoustic_quantizer is 'fsq'"),
        ({"dim": 0}, "at least 1"),
        ({"pool_factor": 2}, r"decoder_rates .* multiply to 320, a frame has 640"),
    ],
)
def test_a_bad_configuration_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidConfig, match=message):
        codec_info("hasrd", config=values)


def test_variants_are_named_by_their_bit_rate() -> None:
    for name, kbps in {"hasrd-0.5k": 0.5, "hasrd-1k": 1, "hasrd-2k": 2}.items():
        info = codec_info(name)
        assert (info.kbps, info.frame_rate, info.num_semantic_codebooks) == (kbps, 50, 1)
    speech_tokenizer = 50 * 8 * 10 / 1000
    assert codec_info("hasrd-2k").kbps == speech_tokenizer / 2
    assert round(codec_info("hasrd-2k", config={"semantic_codebook_size": 2000}).kbps, 3) == 2.048
