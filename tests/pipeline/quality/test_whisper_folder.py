"""Whisper from CTranslate2's format, written by the tests, to what transformers computes."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, WhisperFeatureExtractor, WhisperForConditionalGeneration

from speechmill.pipeline.errors import InputError
from speechmill.pipeline.quality.whisper_folder import transformers_files
from tests.whisper_files import CONFIG, converted, model_bin, tokenizer, whisper


def files(model: bytes) -> dict[str, bytes]:
    return transformers_files(model, json.dumps(CONFIG).encode(), json.dumps(tokenizer()).encode())


def test_transformers_computes_with_the_folder_what_it_computed_before(tmp_path: Path) -> None:
    network = whisper()
    for name, data in files(model_bin(converted(network))).items():
        (tmp_path / name).write_bytes(data)
    found = WhisperForConditionalGeneration.from_pretrained(tmp_path).eval()
    assert next(found.parameters()).dtype == torch.float32
    theirs = network.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in found.state_dict().items())
    mel, ids = torch.randn(1, 80, 3000), torch.tensor([[61, 3, 4, 5]])
    with torch.inference_mode():
        before, after = (
            each(mel, decoder_input_ids=ids, output_hidden_states=True) for each in (network, found)
        )
    torch.testing.assert_close(after.logits, before.logits)
    for name in ("encoder_hidden_states", "decoder_hidden_states"):
        for ours, own in zip(after[name], before[name], strict=True):
            torch.testing.assert_close(ours, own)


def test_the_folder_has_a_tokenizer_features_and_settings_of_generation(tmp_path: Path) -> None:
    for name, data in files(model_bin(converted(whisper()))).items():
        (tmp_path / name).write_bytes(data)
    processor = AutoProcessor.from_pretrained(tmp_path)
    assert processor.tokenizer.convert_tokens_to_ids("<|notimestamps|>") == 66
    assert processor.feature_extractor.to_dict() == WhisperFeatureExtractor().to_dict()
    network = WhisperForConditionalGeneration.from_pretrained(tmp_path)
    settings = network.generation_config
    assert (settings.no_timestamps_token_id, settings.is_multilingual) == (66, False)
    spoken = network.generate(torch.randn(1, 80, 3000), max_new_tokens=3)
    assert spoken.shape[1] <= 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder/layer_0/ffn/linear_0/weight": np.zeros((32, 16), np.int8)}, "as int8; give a"),
        ({"decoder/extra/weight": np.zeros(3, np.float16)}, "which Whisper does not have"),
        (
            {"decoder/layer_0/self_attention/linear_0/bias": np.ones(48, np.float16)},
            "a bias of keys",
        ),
    ],
)
def test_another_network_is_refused(change: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        files(model_bin(converted(whisper()) | change))


def test_another_format_and_a_file_that_ends_early_are_refused() -> None:
    whole = model_bin(converted(whisper()))
    with pytest.raises(InputError, match="version 5 of 'WhisperSpec'; only version 6"):
        files(struct.pack("<I", 5) + whole[4:])
    for size in (3, 30, len(whole) // 2):
        with pytest.raises(InputError, match=r"model\.bin is damaged"):
            files(whole[:size])
