"""How many frames a clip has, and what is kept of the last."""

from typing import Any

import pytest
import torch

from speechmill.codecs import CodecInfo, codec_info
from tests.codecs.dualcodec.goldens import codec
from tests.codecs.speech import speech
from tests.codecs.tokens import encode_alone


def facts(name: str, **options: Any) -> CodecInfo:
    return codec_info(name, checkpoint="untrained", **options)


@pytest.mark.parametrize(("name", "factor"), [("dualcodec-12hz", 4), ("dualcodec-25hz", 2)])
def test_num_frames_of_the_released_codecs_is_the_authors_for_every_length(
    name: str, factor: int
) -> None:
    info, partial = (
        facts(name),
        facts(name, keep_partial=True),
    )
    for samples in range(1, 30_000):
        windows = max(0, (-(-samples * 2 // 3) - 400) // 160 + 1)
        pairs = -(-windows // 2)
        assert info.num_frames(samples) == pairs // factor
        assert partial.num_frames(samples) == -(-pairs // factor)


def test_ten_seconds_lack_the_last_frame_unless_it_is_kept() -> None:
    assert facts("dualcodec-25hz").num_frames(240_000) == 249
    assert facts("dualcodec-12hz").num_frames(240_000) == 124
    assert facts("dualcodec-12hz", keep_partial=True).num_frames(240_000) == 125


def test_a_kept_partial_frame_does_not_change_whole_frames() -> None:
    clip_T = speech(24_000)
    whole_KN = encode_alone(codec(), clip_T)
    kept_KN = encode_alone(codec(keep_partial=True), clip_T)
    assert kept_KN.shape[1] == whole_KN.shape[1] + 1
    assert torch.equal(kept_KN[0, :-1], whole_KN[0, :])
    assert codec(keep_partial=True).info.revision != codec().info.revision


def test_decoding_lacks_the_four_samples_that_the_authors_decoder_does_not_compute() -> None:
    for name, hop in (("dualcodec-12hz", 1_920), ("dualcodec-25hz", 960)):
        assert facts(name).num_decoded_samples(1) == hop - 4
        assert facts(name).num_decoded_samples(9) == 9 * hop - 4
