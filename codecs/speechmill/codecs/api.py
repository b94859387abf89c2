"""The interface of every speech codec: facts about its tokens, encode and decode."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # processes that only decode audio need a codec's facts, but not torch
    from torch import Tensor


PRECISIONS = ("fp32", "tf32", "bf16", "fp16")


@dataclass(frozen=True, kw_only=True, slots=True)
class CodecInfo:
    """The facts that a token dataset records about the codec that made it.

    `num_frames` is exact for every codec because the frame count of a strided network is always
    `(num_samples + frame_offset) // hop_length`, with a floor of `min_frames` where the network
    pads short clips.
    """

    name: str
    revision: str  # digest of architecture and weights: the codec's identity
    trained: bool  # False if the weights are random
    sample_rate: int  # Hz, of the audio that encode takes
    output_sample_rate: int  # Hz, of the audio that decode returns
    hop_length: int  # input samples per frame
    frame_offset: int
    min_frames: int  # of a clip of at least one sample
    codebook_sizes: tuple[int, ...]  # one entry per codebook; they may differ
    num_semantic_codebooks: int  # they come first
    checkpoint_sha256: str | None = None  # None if untrained
    # Samples before and after those of a frame that can change its codes; None: all of them.
    context: tuple[int, int] | None = None
    missing_samples: int = 0  # samples at a clip's end that decode does not compute

    @property
    def num_codebooks(self) -> int:
        return len(self.codebook_sizes)

    @property
    def shortest_clip(self) -> int:
        """Samples of the shortest clip that has a frame."""
        return 1 if self.min_frames else max(1, self.hop_length - self.frame_offset)

    @property
    def frame_rate(self) -> float:
        """Frames per second of input audio."""
        return self.sample_rate / self.hop_length

    @property
    def kbps(self) -> float:
        """Nominal bit rate in kbit/s: log2 of every codebook's size, per frame."""
        return self.frame_rate * sum(log2(size) for size in self.codebook_sizes) / 1000

    @property
    def title(self) -> str:
        """The name to show to people: it says if the weights are random."""
        return self.name if self.trained else f"{self.name} (untrained)"

    def num_frames(self, num_samples: int) -> int:
        """Frames that `encode` returns for a clip of `num_samples` samples at `sample_rate`."""
        if num_samples <= 0:
            return 0
        return max(self.min_frames, (num_samples + self.frame_offset) // self.hop_length)

    def num_decoded_samples(self, num_frames: int) -> int:
        """Samples that `decode` returns for `num_frames` frames at `output_sample_rate`."""
        if num_frames <= 0:
            return 0
        whole = num_frames * self.hop_length * self.output_sample_rate // self.sample_rate
        return whole - self.missing_samples


class Codec(Protocol):
    """A neural speech codec with loaded weights, ready for inference.

    The exactness contract: the codes of an utterance depend neither on the other rows of its batch
    nor on the amount or content of the padding after its `num_samples`.
    """

    info: CodecInfo

    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF, int64, semantic codebook first.

        `audio_BT` is float32 in [-1, 1] at `info.sample_rate`; row b is valid up to
        `num_samples_B[b]` and its codes up to `info.num_frames(num_samples_B[b])`.
        The codes after that are zero. Raises `InvalidAudio` for another type or shape.
        """
        ...

    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT, float32 at `info.output_sample_rate`.

        `codes_BKF` may hold only the first codebooks. The audio after row b's `num_frames_B[b]`
        frames is zero. Raises `InvalidCodes` if a code is out of range, or if there are more
        codebooks than the codec has.
        """
        ...
