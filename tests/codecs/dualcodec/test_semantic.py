"""Input and output of w2v-BERT, alone and in a batch."""

import json

import pytest
import torch
from safetensors.torch import load_file

from speechmill.codecs.dualcodec.config import W2VBertConfig
from speechmill.codecs.dualcodec.semantic import attended
from speechmill.codecs.dualcodec.w2vbert import ConformerAttention
from speechmill.codecs.nn import query_blocks
from speechmill.codecs.nn.masks import padding_mask
from tests.codecs.dualcodec.goldens import SMALL, WEIGHTS, codec
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import assert_near


@torch.inference_mode()
def test_features_of_a_masked_batch_are_those_of_its_clips() -> None:
    semantic = codec().semantic
    assert semantic is not None
    clips = [speech(length, seed=length) for length in (30_000, 4_321, 1_079, 12_345)]
    features_BSI, windows_B = semantic.fbank_features(*padded(clips))
    assert windows_B is not None
    for clip_T, features_SI, windows in zip(clips, features_BSI, windows_B, strict=True):
        alone_SI = semantic.fbank_features(clip_T[None])[0][0]
        assert len(alone_SI) == -(-int(windows) // 2)
        torch.testing.assert_close(features_SI[: len(alone_SI)], alone_SI, atol=1e-6, rtol=0)


@torch.inference_mode()
def test_features_have_mean_0_and_variance_1_in_every_bin() -> None:
    semantic = codec().semantic
    assert semantic is not None
    features_BSI, windows_B = semantic.fbank_features(0.01 * speech(24_000)[None])
    assert windows_B is None
    windows_WM = features_BSI[0].view(-1, 80)
    assert windows_WM.mean(0).abs().max() < 1e-5
    torch.testing.assert_close(windows_WM.var(0), torch.ones(80), atol=1e-4, rtol=0)


@pytest.mark.parametrize("samples", [24_000, 24_240, 26_160, 5_000, 1_079])
@torch.inference_mode()
def test_even_and_odd_clips_give_what_transformers_gives(samples: int) -> None:
    import transformers

    semantic, config = codec().semantic, json.loads((SMALL / "config.json").read_text())
    assert semantic is not None
    reference = transformers.Wav2Vec2BertModel(transformers.Wav2Vec2BertConfig(**config["w2vbert"]))
    reference.load_state_dict(load_file(WEIGHTS["semantic_checkpoint"]))
    extractor = transformers.SeamlessM4TFeatureExtractor(**config["feature_extractor"])
    audio_BT = speech(samples)[None]
    inputs = extractor(
        semantic.resample(audio_BT.double())[0].float().numpy(),
        sampling_rate=16_000,
        return_tensors="pt",
    )
    features_BSI, windows_B = semantic.fbank_features(audio_BT)
    assert_near(features_BSI, inputs["input_features"])
    expected_BSD = reference.eval()(**inputs, output_hidden_states=True).hidden_states[17]
    assert_near(semantic.w2vbert(features_BSI, attended(windows_B)), expected_BSD)


@torch.inference_mode()
def test_attention_in_blocks_of_queries_is_that_of_the_whole_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attention = ConformerAttention(W2VBertConfig(hidden_size=32, num_attention_heads=2))
    x_BSD = torch.randn(1, 2_345, 32)
    masked_BS = padding_mask(torch.tensor([2_300]), 2_345)
    blocks_BSD = attention(x_BSD, None, masked_BS)
    monkeypatch.setattr(query_blocks, "BLOCK", 10_000)
    assert torch.equal(attention(x_BSD, None, masked_BS), blocks_BSD)
