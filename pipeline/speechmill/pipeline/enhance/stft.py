"""Short-time spectra frame by frame, and back without a delay."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from speechmill.pipeline.audio.samples import Samples
from speechmill.pipeline.errors import InputError

Spectrum = npt.NDArray[np.complex64]
WINDOWS = ("hann", "sqrt_hann")


@dataclass(frozen=True, slots=True)
class Stft:
    """Frames of `n_fft` samples every `hop`, under one window before the transform and after it.

    A clip is padded with silence on both sides, so that equally many frames cover each sample.
    With `hop` = `n_fft` / 2, frame i is centred on sample i * hop.
    """

    n_fft: int = 512
    hop: int = 256
    window: str = "hann"  # hann | sqrt_hann, periodic

    def __post_init__(self) -> None:
        if self.window not in WINDOWS:
            raise InputError(f"enhancer.window is {self.window!r}; use hann or sqrt_hann")
        if self.hop < 1 or self.n_fft % (2 * self.hop):
            raise InputError(
                f"enhancer.hop is {self.hop}; half of n_fft ({self.n_fft // 2}) must be a multiple"
            )

    def through(
        self, blocks: Iterable[Samples], process: Callable[[Spectrum], Spectrum]
    ) -> Iterator[Samples]:
        """Take audio in blocks of any length and return it, with `process` applied to each frame.

        The output has the length of the input and is aligned to the sample; block sizes do not
        change it.
        """
        frames = _Frames(self, process)
        missing = 0
        for block in blocks:
            done = frames.push(block)
            missing += len(block) - len(done)
            yield done
        yield frames.push(np.zeros(missing + self.n_fft, np.float32))[:missing]


class _Frames:
    """Input samples that wait for their frame, and output samples that wait for the next frame."""

    def __init__(self, stft: Stft, process: Callable[[Spectrum], Spectrum]):
        self.stft = stft
        self.process = process
        angles = 2 * np.pi * np.arange(stft.n_fft) / stft.n_fft
        hann = 0.5 - 0.5 * np.cos(angles)
        window = hann if stft.window == "hann" else np.sqrt(hann)
        # The overlapping squares of the window sum up to a sequence with the period of a hop.
        total = (window**2).reshape(-1, stft.hop).sum(axis=0)
        self.analysis = window.astype(np.float32)
        self.synthesis = (window / np.tile(total, stft.n_fft // stft.hop)).astype(np.float32)
        lead = stft.n_fft - stft.hop
        self.waiting = np.zeros(lead, np.float32)
        self.partial = np.zeros(lead, np.float32)
        # Output samples of the padding before the clip that are still to be dropped.
        self.lead = lead

    def push(self, block: Samples) -> Samples:
        """Take samples; return those that are finished."""
        self.waiting = np.concatenate([self.waiting, block.astype(np.float32, copy=False)])
        count = max(0, (len(self.waiting) - self.stft.n_fft) // self.stft.hop + 1)
        done = [self._frame(i * self.stft.hop) for i in range(count)]
        self.waiting = self.waiting[count * self.stft.hop :]
        out = np.concatenate([np.zeros(0, np.float32), *done])
        cut = min(self.lead, len(out))
        self.lead -= cut
        return out[cut:]

    def _frame(self, start: int) -> Samples:
        n_fft, hop = self.stft.n_fft, self.stft.hop
        spectrum = np.fft.rfft(self.waiting[start : start + n_fft] * self.analysis)
        changed = np.fft.irfft(self.process(spectrum.astype(np.complex64)), n_fft)
        total = changed.astype(np.float32) * self.synthesis
        total[: n_fft - hop] += self.partial
        self.partial = total[hop:]
        done: Samples = total[:hop]
        return done
