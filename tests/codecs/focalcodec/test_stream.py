"""The causal FocalCodec, chunk by chunk."""

import pytest
import torch
from torch import Tensor

from speechmill.codecs import InvalidAudio, InvalidCodes, InvalidConfig, load_codec
from speechmill.codecs.focalcodec.codec import FocalCodec
from tests.codecs.focalcodec.goldens import CLIPS, codec, golden
from tests.codecs.focalcodec.small import tiny
from tests.codecs.speech import speech
from tests.codecs.tokens import assert_near


def streamed(codec: FocalCodec, audio_BT: Tensor, chunks: int) -> Tensor:
    stream = codec.stream()
    size = chunks * stream.chunk_samples
    return torch.cat([stream.encode(part_BT) for part_BT in audio_BT.split(size, 1)], dim=-1)


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("chunks", [1, 3, 40])
def test_streamed_codes_are_those_of_the_whole_clip(clip: str, chunks: int) -> None:
    codes_BKF = streamed(codec("causal"), golden("causal")[f"{clip}.sig"][None], chunks)
    assert torch.equal(codes_BKF[0, 0], golden("causal")[f"{clip}.toks"])


def test_a_chunk_is_80_ms() -> None:
    assert codec("causal").stream().chunk_samples == 1280


@pytest.mark.parametrize("clip", CLIPS[1:])
def test_streamed_audio_is_that_of_the_whole_clip(clip: str) -> None:
    stream, codes_F = codec("causal").stream(), golden("causal")[f"{clip}.toks"]
    parts = [stream.decode(part_BKF) for part_BKF in codes_F[None, None].split(4, dim=-1)]
    audio_T = torch.cat(parts, dim=-1)[0]
    assert_near(audio_T, golden("causal")[f"{clip}.rec"])


@pytest.mark.parametrize("factor", [1, 2])
def test_several_clips_stream_together_whatever_the_token_rate(factor: int) -> None:
    loaded = load_codec("focalcodec", config=tiny(causal=True, factor=factor))
    assert isinstance(loaded, FocalCodec)
    audio_BT = torch.stack([speech(11_111), speech(11_111, seed=1)])
    whole_BKF = loaded.encode(audio_BT, torch.tensor([11_111] * 2))
    assert torch.equal(streamed(loaded, audio_BT, 1), whole_BKF)


def test_a_chunk_that_is_not_whole_ends_the_stream() -> None:
    stream = codec("causal").stream()
    stream.encode(torch.zeros(1, 1_281))
    with pytest.raises(InvalidAudio, match=r"1281 samples.* multiple of 1280"):
        stream.encode(torch.zeros(1, 1_280))
    stream.decode(torch.zeros(1, 1, 3, dtype=torch.int64))
    with pytest.raises(InvalidCodes, match=r"3 frames.* multiple of 4"):
        stream.decode(torch.zeros(1, 1, 4, dtype=torch.int64))


def test_an_offline_variant_does_not_stream() -> None:
    with pytest.raises(InvalidConfig, match="focalcodec is not causal"):
        codec("offline_50hz").stream()
