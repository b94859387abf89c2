"""From audio to feature frames: strided convolutions over rows of different length."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.frame_conv import FrameConv1d, Memory
from speechmill.codecs.nn.masks import mask_padding_frames, padding_mask
from speechmill.codecs.nn.norm import LayerNorm
from speechmill.codecs.nn.wavlm.sizes import WavLMSizes

_PART = 128  # feature frames whose activations fit into a CPU's cache
_TIME_NORM_EPS = 1e-5


class WavLMFeatureExtractor(nn.Module):
    """Strided convolutions, each followed by a norm and a GELU."""

    def __init__(self, sizes: WavLMSizes) -> None:
        super().__init__()
        widths = (1, *sizes.conv_dims)
        self.layers = nn.ModuleList(
            WavLMConv(sizes, i, width) for i, width in enumerate(widths[:-1])
        )
        self.causal, self.hop = sizes.causal, sizes.hop_length
        self.first_samples = sizes.first_samples
        self.by_parts = not sizes.time_norm

    def forward(
        self, audio_BT: Tensor, lengths_B: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None]:
        whole = audio_BT.device.type != "cpu" or lengths_B is not None or memory is not None
        if whole or not self.by_parts:
            return self._layers(audio_BT, lengths_B, memory)
        past = Memory() if self.causal else None
        parts = [self._layers(part_BT, None, past)[0] for part_BT in self._parts(audio_BT)]
        return torch.cat(parts, dim=1), None

    def _parts(self, audio_BT: Tensor) -> Iterator[Tensor]:
        """Yield audio of `_PART` frames each; the widest activation of 10 s at once has 65 MB."""
        start, step = 0, _PART * self.hop
        overlap = 0 if self.causal else self.first_samples - self.hop
        while start + step + self.first_samples <= audio_BT.shape[1]:
            yield audio_BT[:, start : start + step + overlap]
            start += step
        yield audio_BT[:, start:]

    def _layers(
        self, audio_BT: Tensor, lengths_B: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None]:
        x_BTC = audio_BT[..., None]
        for layer in self.layers:
            x_BTC, lengths_B = layer(x_BTC, lengths_B, memory)
        return x_BTC, lengths_B


class WavLMConv(nn.Module):
    """A convolution, a norm of each column or (in a base model's first layer) channel, a GELU."""

    def __init__(self, sizes: WavLMSizes, index: int, in_channels: int) -> None:
        super().__init__()
        width, kernel = sizes.conv_dims[index], sizes.kernels[index]
        self.conv = FrameConv1d(
            in_channels,
            width,
            kernel,
            stride=sizes.strides[index],
            padding="replicate" if sizes.causal else "valid",
            bias=sizes.conv_bias,
        )
        self.norm: LayerNorm | TimeNorm | None = None
        if not sizes.time_norm:
            self.norm = LayerNorm(width)
        elif index == 0:
            self.norm = TimeNorm(width)
        self.short_rows = sizes.short_rows and not sizes.causal
        self.first = 1 if sizes.causal else kernel  # columns that the first output column needs

    def forward(
        self, x_BTC: Tensor, lengths_B: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Tensor | None]:
        if self.short_rows:
            x_BTC = self._pad_short_rows(x_BTC, lengths_B)
        y_BTC = self.conv(x_BTC, memory=memory)
        if lengths_B is not None:
            columns_B = torch.div(
                lengths_B - self.first, self.conv.stride[0], rounding_mode="floor"
            )
            lengths_B = (columns_B + 1).clamp(min=1)
        if isinstance(self.norm, LayerNorm):
            return self.norm(y_BTC, gelu=True), lengths_B
        if self.norm is not None:
            y_BTC = self.norm(y_BTC, lengths_B)
        return F.gelu(y_BTC), lengths_B

    def _pad_short_rows(self, x_BTC: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return x_BTC; zeros pad rows that are shorter than the kernel.

        They are written into x_BTC, the result of the layer before; audio has them already.
        """
        kernel = self.conv.reach + 1
        if lengths_B is not None and self.conv.in_channels > 1:
            head_BKC = x_BTC[:, :kernel]
            head_BKC.masked_fill_(padding_mask(lengths_B, head_BKC.shape[1])[..., None], 0)
        missing = kernel - x_BTC.shape[1]
        return F.pad(x_BTC, (0, 0, 0, missing)) if missing > 0 else x_BTC


class TimeNorm(nn.Module):
    """Normalises each channel by its statistics up to the row's end."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BTC: Tensor, lengths_B: Tensor | None) -> Tensor:
        x_BTC = x_BTC.float()
        if lengths_B is None:
            variance_B1C, mean_B1C = torch.var_mean(x_BTC, 1, correction=0, keepdim=True)
        else:
            count_B11 = lengths_B[:, None, None]
            mean_B1C = mask_padding_frames(x_BTC, lengths_B).sum(1, keepdim=True) / count_B11
            off_BTC = mask_padding_frames(x_BTC - mean_B1C, lengths_B)
            variance_B1C = off_BTC.square_().sum(1, keepdim=True) / count_B11
        scale_B1C = self.weight * torch.rsqrt(variance_B1C + _TIME_NORM_EPS)
        return torch.addcmul(self.bias - mean_B1C * scale_B1C, x_BTC, scale_B1C)
