"""FocalCodec-Stream (arXiv 2509.16195): a clip encoded or decoded while it comes in."""

import torch
from torch import Tensor

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.errors import InvalidAudio, InvalidCodes
from speechmill.codecs.focalcodec.config import FocalCodecConfig
from speechmill.codecs.focalcodec.model import FocalCodecNetwork
from speechmill.codecs.nn.frame_conv import Memory
from speechmill.codecs.precision import autocast
from speechmill.codecs.validation import check_audio, check_codes


class FocalCodecStream:
    """One batch of clips of equal length, in chunks of whole `chunk_samples` or `chunk_frames`.

    A chunk that is not whole is the last. Codes and audio are those of the whole clip, but for
    rounding. The two directions are apart: each has a state of its own.
    """

    def __init__(
        self,
        network: FocalCodecNetwork,
        sizes: FocalCodecConfig,
        info: CodecInfo,
        *,
        device: torch.device,
        precision: str,
    ) -> None:
        self.chunk_samples = sizes.chunk_tokens * sizes.hop_length
        self.chunk_frames = sizes.chunk_tokens
        self._network = network
        self._info = info
        self._device = device
        self._precision = precision
        self._heard = _Side(self.chunk_samples)
        self._told = _Side(self.chunk_frames)

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor) -> Tensor:
        """Return codes_BKF of the next chunk; raise `InvalidAudio` if the last one has been."""
        num_samples = check_audio(audio_BT, torch.tensor([audio_BT.shape[-1]] * len(audio_BT)))
        if self._heard.ended:
            raise InvalidAudio(self._heard.refusal("samples"))
        self._heard.add(num_samples[0])
        with autocast(self._precision, self._device):
            return self._network.encode(audio_BT.to(self._device), None, self._heard.memory)

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor) -> Tensor:
        """Return audio_BT of the next chunk; raise `InvalidCodes` if the last one has been."""
        num_frames_B = torch.tensor([codes_BKF.shape[-1]] * len(codes_BKF))
        num_frames = check_codes(self._info, codes_BKF, num_frames_B)
        if self._told.ended:
            raise InvalidCodes(self._told.refusal("frames"))
        self._told.add(num_frames[0])
        with autocast(self._precision, self._device):
            codes_BKF = codes_BKF.to(self._device).long()
            return self._network.decode(codes_BKF, None, self._told.memory).float()


class _Side:
    """What one direction remembers."""

    def __init__(self, chunk: int) -> None:
        self.memory: Memory = {}
        self.last: int | None = None  # size of a chunk that was not whole
        self._chunk = chunk

    @property
    def ended(self) -> bool:
        return self.last is not None

    def add(self, size: int) -> None:
        if size % self._chunk:
            self.last = size

    def refusal(self, unit: str) -> str:
        return (
            f"the stream ended with a chunk of {self.last} {unit}; every chunk but the last must "
            f"be a multiple of {self._chunk}, and a new clip needs a new stream"
        )
