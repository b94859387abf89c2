"""SimWhisper as a `Codec`."""

from dataclasses import dataclass

import torch
from torch import Tensor

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.batch_runner import BatchRunner
from speechmill.codecs.nn.cpu_kernels import pack_linears
from speechmill.codecs.nn.whisper.layers import WhisperLayer
from speechmill.codecs.nn.whisper.sizes import WINDOW_SAMPLES
from speechmill.codecs.precision import autocast, cast_weights
from speechmill.codecs.simwhisper.config import STEP_SAMPLES
from speechmill.codecs.simwhisper.frame_stack import FrameStackUnit
from speechmill.codecs.simwhisper.model import SimWhisperNetwork
from speechmill.codecs.validation import check_audio, check_codes


@dataclass(frozen=True, slots=True)
class Window:
    """Frames `start` to `end` of a row; the audio of the first `kept` is kept."""

    row: int
    start: int
    end: int
    kept: int


class SimWhisperCodec:
    """Encodes and decodes windows of 30 s every 20 s, and keeps the first 20 s of each.

    Rows are computed in one masked batch or one by one (see `batch_runner`).
    """

    def __init__(
        self,
        network: SimWhisperNetwork,
        info: CodecInfo,
        *,
        device: torch.device,
        precision: str,
        row_by_row: bool | None = None,
        compiled: bool = False,
    ) -> None:
        self.info = info
        self.network = network.to(device).eval().requires_grad_(False)
        self._runner = BatchRunner.on(device, precision, row_by_row, compiled=compiled)
        if self._runner.packs_weights:
            pack_linears(self.network)
        cast_weights(precision, self.network)
        self._runner.compile_layers(self.network, WhisperLayer, FrameStackUnit)

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        num_samples = check_audio(audio_BT, num_samples_B)
        return self._runner.encode(self._code, audio_BT, num_samples, self.info)

    @torch.inference_mode()
    def encode_padded(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF; see `BatchRunner.encode_padded`."""
        return self._runner.encode_padded(self._code, audio_BT, num_samples_B, self.info)

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        num_frames, hop = check_codes(self.info, codes_BKF, num_frames_B), self.info.hop_length
        audio_BT = torch.zeros(len(num_frames), max(num_frames) * hop, device=self._runner.device)
        for group in self._runner.groups(self._windows(num_frames)):
            codes_WKF, lengths_W = self._cut(codes_BKF.long(), group)
            with autocast(self._runner.precision, self._runner.device):
                window_WT = self.network.decode(codes_WKF, lengths_W)
            for window, kept_T in zip(group, window_WT, strict=True):
                first, size = window.start * hop, window.kept * hop
                audio_BT[window.row, first : first + size] = kept_T[:size]
        return audio_BT

    def _code(self, audio_BT: Tensor, lengths_B: Tensor | None) -> Tensor:
        """Return codes_BKF, window by window; a window that starts after a row's end is dropped."""
        frames, hop = self.info.num_frames(audio_BT.shape[1]), self.info.hop_length
        parts = []
        for first in range(0, frames, STEP_SAMPLES // hop):
            start, kept = first * hop, min(STEP_SAMPLES // hop, frames - first)
            left_B = None if lengths_B is None else (lengths_B - start).clamp(1, WINDOW_SAMPLES)
            window_BT = audio_BT[:, start : start + WINDOW_SAMPLES]
            parts.append(self.network.encode(window_BT, kept, left_B))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _windows(self, num_frames: list[int]) -> list[Window]:
        """Return the windows of all rows."""
        hop = self.info.hop_length
        step, size = STEP_SAMPLES // hop, WINDOW_SAMPLES // hop
        return [
            Window(row, first, min(frames, first + size), min(step, frames - first))
            for row, frames in enumerate(num_frames)
            for first in range(0, frames, step)
        ]

    def _cut(self, codes_BKF: Tensor, group: list[Window]) -> tuple[Tensor, Tensor | None]:
        """Return a group's windows, zero after their ends, and their lengths if unequal."""
        lengths = [window.end - window.start for window in group]
        cut_WKF = codes_BKF.new_zeros(len(group), codes_BKF.shape[1], max(lengths))
        for place, window, length in zip(cut_WKF, group, lengths, strict=True):
            place[:, :length] = codes_BKF[window.row, :, window.start : window.end]
        return cut_WKF.to(self._runner.device), self._runner.unequal_lengths(lengths)
