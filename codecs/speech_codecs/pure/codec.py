"""The PURE network behind the `Codec` protocol."""

from collections.abc import Callable

import torch
from torch import Tensor

from speech_codecs.api import CodecInfo
from speech_codecs.nn.lengths import zero_behind
from speech_codecs.precision import computing_in
from speech_codecs.pure.model import PureNetwork
from speech_codecs.validation import check_audio, check_codes


class PureCodec:
    """Encodes a batch in one go, masked, or row by row.

    Row by row the codes of a clip are the same to the last bit, whatever shares its batch; masked
    they are so but for rounding. On a CPU, row by row is the faster way too, so it is the default
    there.
    """

    def __init__(
        self,
        network: PureNetwork,
        info: CodecInfo,
        *,
        device: torch.device,
        precision: str,
        row_by_row: bool | None = None,
    ) -> None:
        self.info = info
        self.network = network.to(device).eval().requires_grad_(False)
        self.network.quantizer.cache_norms()
        self._device = device
        self._precision = precision
        self._row_by_row = device.type == "cpu" if row_by_row is None else row_by_row

    @torch.inference_mode()
    def encode(self, audio_BT: Tensor, num_samples_B: Tensor) -> Tensor:
        """Return codes_BKF."""
        num_samples = check_audio(audio_BT, num_samples_B)
        return self._by_row_or_batch(self._encode, audio_BT, num_samples, self.info.num_frames)

    @torch.inference_mode()
    def decode(self, codes_BKF: Tensor, num_frames_B: Tensor) -> Tensor:
        """Return audio_BT."""
        num_frames = check_codes(self.info, codes_BKF, num_frames_B)
        hop = self.info.hop_length
        return self._by_row_or_batch(self._decode, codes_BKF, num_frames, lambda f: f * hop)

    def _encode(self, audio_BT: Tensor, lengths_B: Tensor | None) -> Tensor:
        return self.network.encode(audio_BT, self.info.num_codebooks, lengths_B)

    def _decode(self, codes_BKF: Tensor, lengths_B: Tensor | None) -> Tensor:
        return self.network.decode(codes_BKF.long(), lengths_B).float()

    def _by_row_or_batch(
        self,
        compute: Callable[[Tensor, Tensor | None], Tensor],
        x: Tensor,
        lengths: list[int],
        out_length: Callable[[int], int],
    ) -> Tensor:
        """Return what `compute` makes of `x`, of shape (B, ..., T): zero behind each row's end."""
        x = x[..., : max(lengths)].to(self._device)
        with computing_in(self._precision, self._device):
            if self._row_by_row:
                rows = zip(x[:, None], lengths, strict=True)
                return _stack([compute(row[..., :length], None) for row, length in rows])
            if min(lengths) == max(lengths):
                return compute(x, None)
            lengths_B = torch.tensor(lengths, device=self._device)
            y = compute(zero_behind(x, lengths_B), lengths_B)
        return zero_behind(y, torch.tensor([out_length(n) for n in lengths], device=self._device))


def _stack(rows: list[Tensor]) -> Tensor:
    """Return the rows, each of shape (1, ..., T), in one tensor, zero behind their ends."""
    out = rows[0].new_zeros(len(rows), *rows[0].shape[1:-1], max(row.shape[-1] for row in rows))
    for place, row in zip(out, rows, strict=True):
        place[..., : row.shape[-1]] = row[0]
    return out
