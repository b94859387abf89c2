"""FocalCodec gives what the authors' code gives."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.codecs.focalcodec.goldens import CHECKPOINTS, CLIPS, codec, golden
from tests.codecs.speech import padded
from tests.codecs.tokens import assert_near

GOLDENS = tuple(CHECKPOINTS)


@pytest.mark.parametrize("name", GOLDENS)
@pytest.mark.parametrize("row_by_row", [True, False])
def test_codes_in_a_batch_are_the_authors_codes_of_each_clip(name: str, row_by_row: bool) -> None:
    expected = golden(name)
    audio_BT, num_samples_B = padded([expected[f"{clip}.sig"] for clip in CLIPS], 777, 3.0)
    codes_BKF = codec(name, row_by_row=row_by_row).encode(audio_BT, num_samples_B)
    for clip, codes_KF in zip(CLIPS, codes_BKF, strict=True):
        codes_F = expected[f"{clip}.toks"]
        assert torch.equal(codes_KF[0, : len(codes_F)], codes_F)
        assert not codes_KF[0, len(codes_F) :].any()


@pytest.mark.parametrize("name", GOLDENS)
@pytest.mark.parametrize("row_by_row", [True, False])
def test_audio_of_a_batch_is_the_authors_audio_of_each_clip(name: str, row_by_row: bool) -> None:
    expected, clips = golden(name), CLIPS[1:]
    codes = [expected[f"{clip}.toks"] for clip in clips]
    codes_BKF = torch.full((len(clips), 1, 90), 4095)
    for codes_KF, codes_F in zip(codes_BKF, codes, strict=True):
        codes_KF[0, : len(codes_F)] = codes_F
    num_frames_B = torch.tensor([len(codes_F) for codes_F in codes])
    audio_BT = codec(name, row_by_row=row_by_row).decode(codes_BKF, num_frames_B)
    for clip, audio_T in zip(clips, audio_BT, strict=True):
        alone_T = expected[f"{clip}.rec"]
        assert_near(audio_T[: len(alone_T)], alone_T)
        assert not audio_T[len(alone_T) :].any()


@pytest.mark.parametrize("name", GOLDENS)
@pytest.mark.parametrize("clip", CLIPS[1:])
def test_features_and_latents_are_the_authors(name: str, clip: str) -> None:
    expected, network = golden(name), codec(name).network
    audio_BT, codes_BF = expected[f"{clip}.sig"][None], expected[f"{clip}.toks"][None]
    with torch.inference_mode():
        latents_BND = F.normalize(network.latents(audio_BT), dim=-1)
        assert_near(network.encoder(audio_BT)[0][0], expected[f"{clip}.feats"])
        assert_near(latents_BND[0], expected[f"{clip}.lats"])
        corners_BND = network.quantizer.decode(codes_BF)
        assert_near(network.decompressor(corners_BND)[0][0], expected[f"{clip}.qfeats"])


@pytest.mark.parametrize("name", GOLDENS)
def test_every_recorded_activation_is_the_authors(name: str) -> None:
    expected, network = golden(name), codec(name).network
    outputs: dict[str, Tensor] = {}
    hooks = [m.register_forward_hook(_recorder(outputs, n)) for n, m in network.named_modules()]
    with torch.inference_mode():
        network.decode(network.encode(expected["s1p3.sig"][None]))
    for hook in hooks:
        hook.remove()
    recorded = [key.removeprefix("s1p3.act.") for key in expected if ".act." in key]
    assert len(recorded) > 20
    for key in recorded:
        assert_near(outputs[key][0], expected[f"s1p3.act.{key}"], name=key)


def _recorder(outputs: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Any], None]:
    """Return a hook that records also under the shorter names of the recording."""

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        short = name.replace("focal_block.", "").replace("encoder.encoder.", "encoder.")
        outputs[name] = outputs[short] = tensor

    return record
