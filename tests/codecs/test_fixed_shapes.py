from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from speechmill.codecs import InvalidAudio, codec_info, load_codec
from speechmill.codecs.fixed_shapes import FixedShapeCodec
from speechmill.codecs.shapes import BatchShapes, ShapeSettings, plan_shapes
from tests.codecs.speech import padded, speech
from tests.codecs.tokens import encode_alone

INFO = codec_info("null")
RATE = INFO.sample_rate
SMALL = BatchShapes(widths=(16_000, 24_000), rows=(3, 2))


class Recorder:
    """A codec that remembers the shapes of its batches."""

    def __init__(self, name: str) -> None:
        self.codec = load_codec(name)
        self.info = self.codec.info
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        self.shapes.append(tuple(audio_BT.shape))
        return self.codec.encode(audio_BT, num_samples_B)

    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        return self.codec.decode(codes_BKF, num_frames_B)


@given(samples=st.integers(1, 320 * RATE), rate=st.sampled_from([16_000, 24_000]))
def test_a_clip_goes_into_a_batch_little_wider_than_itself(samples: int, rate: int) -> None:
    info = replace(INFO, sample_rate=rate)
    shapes = plan_shapes(info, ShapeSettings())
    bucket = shapes.bucket(min(samples, shapes.widths[-1]))
    assert samples <= shapes.widths[bucket] <= max(1.12 * rate, samples * 9 / 8 + 0.16 * rate)
    assert shapes.widths[bucket] % info.hop_length == 0


def test_shapes_are_few_and_keep_the_budget() -> None:
    settings = ShapeSettings()
    shapes = plan_shapes(INFO, settings)
    assert len(shapes.widths) < 70
    assert list(shapes.widths) == sorted(set(shapes.widths))
    for width, rows in zip(shapes.widths, shapes.rows, strict=True):
        assert 1 <= rows <= settings.max_rows
        assert rows == 1 or rows * width <= settings.seconds * RATE


def test_a_clip_longer_than_the_longest_batch_is_refused() -> None:
    with pytest.raises(InvalidAudio, match="cut it"):
        SMALL.bucket(24_001)


@pytest.mark.parametrize("name", ["null", "pure-16k-small"])
def test_codes_are_those_of_the_clip_alone_and_all_batches_have_planned_shapes(name: str) -> None:
    codec = Recorder(name)
    clips = [speech(samples, seed=samples) for samples in (9_000, 23_000, 15_999, 12_345, 16_000)]
    codes_BKF = FixedShapeCodec(codec, SMALL).encode(*padded(clips))
    assert codec.shapes == [(3, 16_000), (3, 16_000), (2, 24_000)]
    for clip_T, codes_KF in zip(clips, codes_BKF, strict=True):
        alone_KF = encode_alone(codec.codec, clip_T)
        assert torch.equal(codes_KF[:, : alone_KF.shape[1]], alone_KF)
        assert not codes_KF[:, alone_KF.shape[1] :].any()
