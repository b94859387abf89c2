"""Mimi, EnCodec and DAC."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from speechmill.codecs import (
    CheckpointError,
    InvalidConfig,
    MissingDependency,
    codec_info,
    load_codec,
)
from tests.codecs.speech import speech
from tests.codecs.tokens import encode_alone
from tests.codecs.transformers_codecs.small import CONFIGS

NAMES = {"mimi": "mimi", "encodec": "encodec-24khz", "dac": "dac-16khz"}


def saved(model_type: str, folder: Path) -> Path:
    """Write a folder in transformers' format; EnCodec with both factors of every weight."""
    network = load_codec("transformers", config=CONFIGS[model_type]).network
    for module in network.modules():
        if model_type == "encodec" and isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            weight_norm(module)
    network.save_pretrained(folder)
    return folder


def theirs(folder: Path, audio_BT: Tensor) -> Tensor:
    """Return the codes that transformers itself computes."""
    model = transformers.AutoModel.from_pretrained(folder)
    audio_B1T, kind = audio_BT[:, None], model.config.model_type
    with torch.inference_mode():
        if kind == "encodec":
            codes_1BKF = model.encode(audio_B1T, bandwidth=model.config.target_bandwidths[-1])[0]
            return codes_1BKF[0]
        if kind == "dac":
            audio_B1T = F.pad(audio_B1T, (0, -audio_B1T.shape[2] % model.config.hop_length))
        return model.encode(audio_B1T).audio_codes


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_folder_that_transformers_wrote_gives_the_codes_of_transformers(
    model_type: str, tmp_path: Path
) -> None:
    folder, clip_T = saved(model_type, tmp_path), speech(20_000)
    codec = load_codec(NAMES[model_type], checkpoint=folder)
    assert codec.info.trained
    assert codec.info == codec_info(NAMES[model_type], checkpoint=folder)
    assert torch.equal(encode_alone(codec, clip_T), theirs(folder, clip_T[None])[0])


@pytest.mark.parametrize("model_type", ["encodec", "dac"])  # zeros do not leak into Mimi
def test_a_batch_has_the_codes_of_its_clips_although_padding_changes_those_of_transformers(
    model_type: str, tmp_path: Path
) -> None:
    folder, short_T = saved(model_type, tmp_path), speech(9_100)
    codec = load_codec(NAMES[model_type], checkpoint=folder)
    padded_BT = torch.stack([F.pad(short_T, (0, 6_000)), speech(15_100)])
    alone_KF = encode_alone(codec, short_T)
    ours_KF, leaked_KF = (
        codes_BKF[0, :, : alone_KF.shape[1]]
        for codes_BKF in (
            codec.encode(padded_BT, torch.tensor([9_100, 15_100])),
            theirs(folder, padded_BT),
        )
    )
    assert torch.equal(ours_KF, alone_KF)
    assert not torch.equal(leaked_KF, alone_KF)


def test_mimi_has_one_semantic_codebook_and_the_rates_of_its_paper() -> None:
    info = codec_info("mimi", checkpoint="untrained")
    assert (info.frame_rate, info.num_semantic_codebooks) == (12.5, 1)
    assert info.kbps == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("name", "frame_rate", "kbps"),
    [
        ("encodec-24khz", 75, 24),
        ("dac-16khz", 50, 6),
        ("dac-24khz", 75, 24),
        ("dac-44khz", 86.13, 7.75),
    ],
)
def test_all_codebooks_have_the_published_rate(name: str, frame_rate: float, kbps: float) -> None:
    held = {"encodec-24khz": 32, "dac-16khz": 12, "dac-24khz": 32, "dac-44khz": 9}[name]
    info = codec_info(name, checkpoint="untrained", num_codebooks=held)
    assert (round(info.frame_rate, 2), round(info.kbps, 2)) == (frame_rate, kbps)
    with pytest.raises(InvalidConfig, match=f"num_codebooks is {held + 1}, must be 1 to {held}"):
        codec_info(name, checkpoint="untrained", num_codebooks=held + 1)


@pytest.mark.parametrize("model_type", CONFIGS)
def test_a_checkpoint_of_another_size_lists_the_misfits(model_type: str, tmp_path: Path) -> None:
    folder = saved(model_type, tmp_path)
    other = CONFIGS[model_type] | {"codebook_size": 32}
    with pytest.raises(CheckpointError, match=r"misshapen \(\d+\): .*\(64, \d+\) for \(32, \d+\)"):
        load_codec("transformers", checkpoint=folder, config=other)


def test_a_checkpoint_of_another_codec_lists_missing_and_unexpected_keys(
    tmp_path: Path,
) -> None:
    folder = saved("dac", tmp_path)
    with pytest.raises(CheckpointError, match=r"missing \(\d+\): .*unexpected \(\d+\): "):
        load_codec("transformers", checkpoint=folder, config=CONFIGS["encodec"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "mimmi"}, "'mimmi', did you mean 'mimi'"),
        ({"model_type": "encodec", "chunk_length_s": 1.0}, "chunk_length_s is 1.0, only None"),
        ({"model_type": "encodec", "normalize": True}, "normalize is True, only False"),
        ({"model_type": "mimi", "audio_channels": 2}, "audio_channels is 2"),
        (
            {"model_type": "mimi", "sampling_rate": "24k"},
            "sampling_rate is '24k', must be like 24000",
        ),
    ],
)
def test_a_configuration_that_cannot_be_computed_is_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidConfig, match=message):
        codec_info("transformers", config=values)


@pytest.mark.parametrize(
    "values",
    [
        {"attn_implementation": "kernels-community/evil"},
        {"_attn_implementation_internal": "flash_attention_2"},
        {"auto_map": {"AutoModel": "evil--model.Evil"}},
        {"quantization_config": {"quant_method": "evil"}},
    ],
)
def test_a_config_file_names_no_code_that_transformers_would_run(values: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfig, match=f"{next(iter(values))} is "):
        codec_info("transformers", config=CONFIGS["mimi"] | values)


def test_a_value_that_transformers_refuses_is_named() -> None:
    with pytest.raises(InvalidConfig, match="num_filters"):
        load_codec("transformers", config=CONFIGS["mimi"] | {"num_filters": "many"})


def test_a_config_file_may_have_keys_that_do_not_change_codes(tmp_path: Path) -> None:
    about = {"architectures": ["MimiModel"], "transformers_version": "5.0.0", "dtype": "float32"}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIGS["mimi"] | about))
    plain = codec_info("transformers", config=CONFIGS["mimi"])
    assert codec_info("transformers", config=path).revision == plain.revision


@pytest.mark.parametrize("text", ['{"model_type": ', "[]"])
def test_a_folder_with_a_damaged_config_file_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InvalidConfig, match=r"config\.json"):
        codec_info("mimi", checkpoint=tmp_path)


def test_without_transformers_the_error_names_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert codec_info("mimi", checkpoint="untrained").sample_rate == 24_000
    with pytest.raises(MissingDependency, match=r"pip install 'speechmill\[baselines\]'"):
        load_codec("mimi", checkpoint="untrained")
