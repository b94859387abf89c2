"""Convolutions over channels-last frames."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from speechmill.codecs.nn.convnext import ConvNeXtBackbone
from speechmill.codecs.nn.frame_conv import FrameConv1d, Memory, pack_matrices
from speechmill.codecs.nn.spectra import ISTFTHead


def assert_rows_alone(network: nn.Module, x_BTC: Tensor, lengths: list[int]) -> None:
    y_BTC = network(x_BTC, torch.tensor(lengths))
    assert y_BTC.isfinite().all()
    for x_TC, y_TC, length in zip(x_BTC, y_BTC, lengths, strict=True):
        alone_TC = network(x_TC[None, :length])[0]
        torch.testing.assert_close(y_TC[: len(alone_TC)], alone_TC, atol=1e-5, rtol=1e-5)


@settings(max_examples=40)
@given(
    kernel=st.integers(1, 9),
    depthwise=st.booleans(),
    packed=st.booleans(),
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=4),
)
@torch.inference_mode()
def test_a_row_reads_zeros_after_its_end(
    kernel: int, depthwise: bool, packed: bool, lengths: list[int]
) -> None:
    conv = FrameConv1d(4, 4, kernel, padding="same", groups=4 if depthwise else 1)
    if packed:
        pack_matrices(conv)
    x_BTC = torch.randn(len(lengths), max(lengths) + 3, 4)
    assert_rows_alone(conv, x_BTC, lengths)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("kernel", [1, 2, 7, 8])
@torch.inference_mode()
def test_same_padding_and_packing_change_nothing_but_the_layout(kernel: int) -> None:
    theirs = nn.Conv1d(5, 6, kernel, padding="same")
    ours = FrameConv1d(5, 6, kernel, padding="same")
    ours.load_state_dict(theirs.state_dict())
    x_BTC = torch.randn(2, 11, 5)
    expected_BTC = theirs(x_BTC.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(ours(x_BTC), expected_BTC)
    pack_matrices(ours)
    torch.testing.assert_close(ours(x_BTC), expected_BTC)


@pytest.mark.parametrize("padding", ["zeros", "replicate"])
@pytest.mark.parametrize("stride", [1, 2])
@torch.inference_mode()
def test_a_causal_convolution_continues_from_its_memory(padding: str, stride: int) -> None:
    conv = FrameConv1d(3, 3, 5, padding=padding, stride=stride)  # type: ignore[arg-type]
    x_BTC, memory = torch.randn(2, 18, 3), Memory()
    parts = [conv(part_BTC, memory=memory) for part_BTC in x_BTC.split(4, dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), conv(x_BTC))


@torch.inference_mode()
def test_vocos_computes_the_audio_of_each_row_from_its_own_frames() -> None:
    backbone, head = ConvNeXtBackbone(5, 8, 16, 2), ISTFTHead(8, 64, 20)
    x_BFC, frames = torch.randn(3, 12, 5), [12, 1, 5]
    frames_B = torch.tensor(frames)
    audio_BT = head(backbone(x_BFC, frames_B), frames_B)
    assert audio_BT.isfinite().all()
    for x_FC, audio_T, count in zip(x_BFC, audio_BT, frames, strict=True):
        alone_T = head(backbone(x_FC[None, :count]))[0]
        assert len(alone_T) == 20 * count
        torch.testing.assert_close(audio_T[: len(alone_T)], alone_T, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_overlap_add_is_that_of_torch() -> None:
    head = ISTFTHead(8, 64, 16)
    x_BFD = torch.randn(1, 30, 8)
    magnitude_BFS, phase_BFS = head.proj(x_BFD).chunk(2, -1)
    spectrum_BSF = torch.polar(magnitude_BFS.exp().clamp(max=100), phase_BFS).transpose(1, 2)
    expected_BT = torch.istft(spectrum_BSF, 64, 16, window=head.stft.window_N, center=True)
    torch.testing.assert_close(head(x_BFD)[:, 64:400], expected_BT[:, 56:392])


@pytest.mark.parametrize("columns", [1, 31, 32, 70, 200])
@torch.inference_mode()
def test_a_spectrum_computes_what_the_convolution_computed(columns: int) -> None:
    conv = FrameConv1d(12, 12, 40, padding="valid", groups=3)
    x_BTC = torch.randn(2, columns + 39, 12)
    expected_BTC = conv(x_BTC)
    pack_matrices(conv)
    assert conv.fft_conv is not None
    torch.testing.assert_close(conv(x_BTC), expected_BTC, atol=1e-5, rtol=0)
    alone_BTC = conv(x_BTC[1:])
    assert torch.equal(conv(x_BTC)[1:], alone_BTC)
