"""FocalCodec-Stream (arXiv 2509.16195): encode or decode a clip chunk by chunk."""

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

    A chunk that is not whole is the last. Codes and audio equal those of the whole clip, except for
    rounding. The two directions are independent: each has its own state.
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
        self._encoding = _Direction(self.chunk_samples)
        self._decoding = _Direction(self.chunk_frames)

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor) -> Tensor:
        """Return codes_BKF of the next chunk; raise `InvalidAudio` after the last one."""
        num_samples = check_audio(audio_BT, torch.tensor([audio_BT.shape[-1]] * len(audio_BT)))
        if self._encoding.ended:
            raise InvalidAudio(self._encoding.refusal("samples"))
        self._encoding.add(num_samples[0])
        with autocast(self._precision, self._device):
            return self._network.encode(audio_BT.to(self._device), None, self._encoding.memory)

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor) -> Tensor:
        """Return audio_BT of the next chunk; raise `InvalidCodes` after the last one."""
        num_frames_B = torch.tensor([codes_BKF.shape[-1]] * len(codes_BKF))
        num_frames = check_codes(self._info, codes_BKF, num_frames_B)
        if self._decoding.ended:
            raise InvalidCodes(self._decoding.refusal("frames"))
        self._decoding.add(num_frames[0])
        with autocast(self._precision, self._device):
            codes_BKF = codes_BKF.to(self._device).long()
            return self._network.decode(codes_BKF, None, self._decoding.memory).float()


class _Direction:
    """The state of one direction."""

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
