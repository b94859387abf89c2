"""Long clips pass the convolutions in parts that fit into a CPU's cache."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speechmill.codecs import load_codec
from speechmill.codecs.focalcodec.codec import FocalCodec
from tests.codecs.focalcodec.small import CONFIGS
from tests.codecs.speech import speech


def extractor(name: str) -> Any:
    codec = load_codec("focalcodec", config=CONFIGS[name])
    assert isinstance(codec, FocalCodec)
    return codec.network.encoder.feature_extractor


EXTRACTORS = {name: extractor(name) for name in ("25hz", "causal 25hz")}


@settings(max_examples=15)
@given(parts=st.integers(1, 3), samples=st.integers(-500, 500))
@pytest.mark.parametrize("name", EXTRACTORS)
@torch.inference_mode()
def test_features_computed_in_parts_equal_those_of_the_whole(
    name: str, parts: int, samples: int
) -> None:
    audio_BT = speech(parts * 128 * 320 + samples)[None]
    whole_BFC, _ = EXTRACTORS[name](audio_BT, torch.tensor([audio_BT.shape[1]]), None)
    parts_BFC, _ = EXTRACTORS[name](audio_BT, None, None)
    torch.testing.assert_close(parts_BFC, whole_BFC, atol=1e-5, rtol=1e-5)
