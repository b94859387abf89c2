"""SimWhisper as a `Codec`."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.batch_runner import BatchRunner
from speechmill.codecs.nn.cpu_kernels import pack_linears
from speechmill.codecs.precision import autocast, cast_weights
from speechmill.codecs.simwhisper.config import STEP_SAMPLES, WINDOW_SAMPLES
from speechmill.codecs.simwhisper.model import SimWhisperNetwork
from speechmill.codecs.validation import check_audio, check_codes


@dataclass(frozen=True, slots=True)
class Window:
    """Input columns `start` to `end` of a row; the first `frames` of their frames are kept."""

    row: int
    start: int
    end: int
    first_frame: int  # of the row
    frames: int


class SimWhisperCodec:
    """Encodes and decodes windows of 30 s every 20 s, and keeps the first 20 s of each.

    Windows are computed in one masked batch or one by one (see `batch_runner`).
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
        self._decode_runner = replace(self._runner, compiled=False)
        if self._runner.packs_weights:
            pack_linears(self.network)
        cast_weights(precision, self.network)
        self._encode = self._runner.compile(self.network.encode)

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        num_samples = check_audio(audio_BT, num_samples_B)
        num_frames = [self.info.num_frames(samples) for samples in num_samples]
        shape = (len(num_frames), self.info.num_codebooks, max(num_frames))
        codes_BKF = torch.zeros(shape, dtype=torch.int64, device=self._runner.device)
        windows = self._windows(num_samples, num_frames, self.info.hop_length)
        self._compute(self._runner, self._encode, audio_BT, windows, codes_BKF, 1)
        return codes_BKF

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        num_frames, hop = check_codes(self.info, codes_BKF, num_frames_B), self.info.hop_length
        audio_BT = torch.zeros(len(num_frames), max(num_frames) * hop, device=self._runner.device)
        windows = self._windows(num_frames, num_frames, 1)
        self._compute(self._decode_runner, self._decode, codes_BKF.long(), windows, audio_BT, hop)
        return audio_BT

    def _decode(self, codes_WKF: Tensor, _: int, lengths_W: Tensor | None) -> Tensor:
        return self.network.decode(codes_WKF, lengths_W)

    def _windows(self, lengths: list[int], num_frames: list[int], per_frame: int) -> list[Window]:
        """Return the windows of all rows; a frame has `per_frame` input columns."""
        hop = self.info.hop_length
        step, size = STEP_SAMPLES // hop, WINDOW_SAMPLES * per_frame // hop
        windows = []
        for row, (length, frames) in enumerate(zip(lengths, num_frames, strict=True)):
            for first in range(0, frames, step):
                start = first * per_frame
                end = min(length, start + size)
                windows.append(Window(row, start, end, first, min(step, frames - first)))
        return windows

    def _compute(
        self,
        runner: BatchRunner,
        compute: Callable[[Tensor, int, Tensor | None], Tensor],
        x: Tensor,
        windows: list[Window],
        out: Tensor,
        per_frame: int,
    ) -> None:
        """Fill `out`, of `per_frame` columns per frame, with the kept part of every window."""
        for group in runner.groups(windows):
            cut, lengths_W = self._cut(runner, x, group)
            frames = max(window.frames for window in group)
            if runner.compiled:
                cut = runner.pad_to_bucket(cut, WINDOW_SAMPLES)
                frames = self.info.num_frames(cut.shape[1])
            with autocast(self._runner.precision, self._runner.device):
                y = compute(cut, frames, lengths_W)
            for window, kept in zip(group, y, strict=True):
                first, size = window.first_frame * per_frame, window.frames * per_frame
                out[window.row, ..., first : first + size] = kept[..., :size]

    def _cut(
        self, runner: BatchRunner, x: Tensor, group: list[Window]
    ) -> tuple[Tensor, Tensor | None]:
        """Return a group's windows of `x`, zero after their ends, and their lengths if unequal."""
        lengths = [window.end - window.start for window in group]
        cut = x.new_zeros(len(group), *x.shape[1:-1], max(lengths))
        for place, window, length in zip(cut, group, lengths, strict=True):
            place[..., :length] = x[window.row, ..., window.start : window.end]
        return cut.to(self._runner.device), runner.unequal_lengths(lengths)
