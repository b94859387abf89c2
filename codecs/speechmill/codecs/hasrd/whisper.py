"""Whisper's encoder (arXiv 2212.04356, section 2.2) as the model whose features HASRD quantizes.

It computes the hidden states of transformers' `WhisperEncoder`, without the silence that pads a
clip to 30 s.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.checkpoint import load_strict
from speechmill.codecs.hasrd.config import WhisperConfig
from speechmill.codecs.nn.norm import LayerNorm
from speechmill.codecs.nn.whisper.layers import (
    WhisperLayer,
    attention_bias,
    convolve,
    encoder_weights,
)
from speechmill.codecs.nn.whisper.log_mel import LogMel
from speechmill.codecs.nn.whisper.sizes import MEL_HOP, STRIDE, WINDOW_SAMPLES

_N_FFT = 400
_HOP = MEL_HOP * STRIDE
_FRAMES = WINDOW_SAMPLES // _HOP  # of a window, 1500
_CONTEXT = 250  # frames at each end of a window, 5 s, that another window computes
_LONGEST_PERIOD = 10_000


@dataclass(frozen=True, slots=True)
class Window:
    """Audio of at most 30 s from frame `start`; its frames `first` to `last` are kept."""

    start: int
    first: int
    last: int


class WhisperFeatures(nn.Module):
    """audio_BT to hidden states of 50 Hz: normed, the last one of Whisper by its own norm.

    Clips over 25 s are computed in windows of 30 s that begin every 20 s. Each gives its frames
    from 5 s to 25 s; the first also gives those before, the last those after. Which window gives a
    frame depends on the frame's place alone, so not on longer clips of the batch.
    """

    positions_FD: Tensor

    def __init__(self, config: WhisperConfig, num_layers: int) -> None:
        super().__init__()
        dim = config.d_model
        self.log_mel = LogMel(config.num_mel_bins, _N_FFT)
        self.conv1 = nn.Conv1d(config.num_mel_bins, dim, 3)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=STRIDE)
        self.register_buffer("positions_FD", sinusoids(_FRAMES, dim))
        self.layers = nn.ModuleList(
            WhisperLayer(dim, config.encoder_attention_heads, config.encoder_ffn_dim)
            for _ in range(num_layers)
        )
        self.layer_norm = LayerNorm(dim) if num_layers == config.encoder_layers else None

    def prepare(self, audio_BT: Tensor, num_samples_B: Tensor | None = None) -> Tensor:
        """Return audio_BT as it is: Whisper does not normalise it."""
        return audio_BT

    def forward(self, audio_BT: Tensor, lengths_B: Tensor | None = None) -> Iterator[Tensor]:
        """Yield hidden_BFD before the first layer and after each, of T / 320 frames.

        The audio must be zero after its lengths.
        """
        chosen = windows(audio_BT.shape[1] // _HOP)
        for hidden in zip(*(self._states(w, audio_BT, lengths_B) for w in chosen), strict=True):
            kept = [x_BFD[:, w.first : w.last] for w, x_BFD in zip(chosen, hidden, strict=True)]
            yield kept[0] if len(kept) == 1 else torch.cat(kept, dim=1)

    def load_transformers(self, state: Mapping[str, Tensor], source: str = "state") -> None:
        """Load transformers' Whisper, whole or its encoder."""
        ours = encoder_weights(state)
        ours["positions_FD"] = ours.pop("embed_positions.weight", self.positions_FD)
        last = len(self.layers)
        kept = {name: x for name, x in ours.items() if not _is_after(name, last)}
        if self.layer_norm is None:
            kept = {name: x for name, x in kept.items() if not name.startswith("layer_norm.")}
        load_strict(self, kept, source)

    def _states(
        self, window: Window, audio_BT: Tensor, lengths_B: Tensor | None
    ) -> Iterator[Tensor]:
        start = window.start * _HOP
        audio_BT = audio_BT[:, start : start + WINDOW_SAMPLES]
        frames, frames_B = audio_BT.shape[1] // _HOP, None
        if lengths_B is not None:  # of a row that ends before the window nothing is used
            frames_B = (lengths_B // _HOP - window.start).clamp(1, frames)
        mel_BMT = self.log_mel(audio_BT)
        x_BFD = convolve(mel_BMT, frames, self.conv1, self.conv2, F.gelu)
        x_BFD = x_BFD + self.positions_FD[:frames]
        yield _normed(x_BFD)
        bias_B11F = attention_bias(x_BFD, frames_B)
        for layer in self.layers[:-1]:
            x_BFD = layer(x_BFD, bias_B11F)
            yield _normed(x_BFD)
        x_BFD = self.layers[-1](x_BFD, bias_B11F)
        yield _normed(x_BFD) if self.layer_norm is None else self.layer_norm(x_BFD)


def windows(frames: int) -> list[Window]:
    """Return the windows of a clip, so that each frame is kept once."""
    step = _FRAMES - 2 * _CONTEXT
    starts = range(0, max(1, frames - _CONTEXT), step)
    return [
        Window(
            start,
            _CONTEXT if start else 0,
            frames - start if start == starts[-1] else _FRAMES - _CONTEXT,
        )
        for start in starts
    ]


def sinusoids(frames: int, dim: int) -> Tensor:
    """Return positions_FD: sines, then cosines, of geometrically longer periods."""
    half = dim // 2
    rate_H = torch.exp(torch.arange(half) * (-log(_LONGEST_PERIOD) / (half - 1)))
    angle_FH = torch.arange(frames)[:, None] * rate_H
    return torch.cat([angle_FH.sin(), angle_FH.cos()], dim=1)


def _normed(x_BFD: Tensor) -> Tensor:
    """Return a state of zero mean and unit variance in each frame.

    In Whisper base one dimension of the states after layers 4 and 5 is a hundred times as large as
    the others in 2 % of the frames, so it would decide which centroid is the nearest.
    """
    return F.layer_norm(x_BFD, x_BFD.shape[-1:])


def _is_after(name: str, num_layers: int) -> bool:
    """Return whether a weight belongs to a layer after the first `num_layers`."""
    parts = name.split(".")
    return parts[0] == "layers" and int(parts[1]) >= num_layers
