"""Checks of the input of encode and decode, the same for every codec."""

import torch
from torch import Tensor

from speechmill.codecs.api import CodecInfo
from speechmill.codecs.errors import CodecError, InvalidAudio, InvalidCodes
from speechmill.codecs.nn.masks import mask_padding

_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


def check_audio(audio_BT: Tensor, num_samples_B: Tensor) -> list[int]:
    """Return the number of samples of each row, or raise `InvalidAudio`.

    The valid part must be finite; the padding may hold anything.
    """
    if audio_BT.dtype != torch.float32:
        cure = ".float()" if audio_BT.is_floating_point() else ".float() / 32768 for 16-bit PCM"
        raise InvalidAudio(f"audio is {audio_BT.dtype}, not float32; convert it with {cure}")
    if audio_BT.dim() != 2:
        raise InvalidAudio(
            f"audio has shape {tuple(audio_BT.shape)}, not (batch, samples); "
            "mix channels down to one and add the batch dimension"
        )
    num_samples = _check_lengths(num_samples_B, audio_BT, InvalidAudio, "sample")
    if not _is_finite(audio_BT):
        _check_rows_finite(audio_BT, num_samples)
    return num_samples


def check_codes(info: CodecInfo, codes_BKF: Tensor, num_frames_B: Tensor) -> list[int]:
    """Return the number of frames of each row, or raise `InvalidCodes`.

    The padding may hold anything.
    """
    if codes_BKF.dtype not in _INTEGERS:
        raise InvalidCodes(f"codes are {codes_BKF.dtype}, not integers; give what encode returned")
    if codes_BKF.dim() != 3:
        raise InvalidCodes(
            f"codes have shape {tuple(codes_BKF.shape)}, not (batch, codebooks, frames)"
        )
    if not 1 <= codes_BKF.shape[1] <= info.num_codebooks:
        raise InvalidCodes(
            f"codes of {codes_BKF.shape[1]} codebooks, {info.name} takes 1 to {info.num_codebooks}"
        )
    num_frames = _check_lengths(num_frames_B, codes_BKF, InvalidCodes, "frame")
    lengths_B = num_frames_B.to(codes_BKF.device)
    _check_range(info, mask_padding(codes_BKF, lengths_B))
    return num_frames


def _check_lengths(
    lengths_B: Tensor, padded: Tensor, error: type[CodecError], unit: str
) -> list[int]:
    rows, size = padded.shape[0], padded.shape[-1]
    if rows == 0:
        raise error("the batch is empty; give at least one row")
    if lengths_B.dtype not in _INTEGERS or tuple(lengths_B.shape) != (rows,):
        raise error(
            f"num_{unit}s is {lengths_B.dtype} of shape {tuple(lengths_B.shape)}, "
            f"not integers of shape ({rows},); give one count per row"
        )
    lengths: list[int] = lengths_B.tolist()
    for row, length in enumerate(lengths):
        if not 1 <= length <= size:
            raise error(f"row {row} has {length} {unit}s, must be 1 to {size}; drop or pad the row")
    return lengths


def _is_finite(audio_BT: Tensor) -> bool:
    low, high = torch.aminmax(audio_BT)
    return bool(torch.isfinite(high - low))


def _check_rows_finite(audio_BT: Tensor, num_samples: list[int]) -> None:
    for row, length in enumerate(num_samples):
        bad = torch.nonzero(~torch.isfinite(audio_BT[row, :length]))
        if len(bad):
            at = int(bad[0])
            value = float(audio_BT[row, at])
            raise InvalidAudio(f"sample {at} of row {row} is {value}; repair or drop the clip")


def _check_range(info: CodecInfo, codes_BKF: Tensor) -> None:
    for book, size in enumerate(info.codebook_sizes[: codes_BKF.shape[1]]):
        low, high = (int(code) for code in torch.aminmax(codes_BKF[:, book]))
        if low < 0 or high >= size:
            bad = low if low < 0 else high
            raise InvalidCodes(
                f"code {bad} in codebook {book}, {info.name} has 0 to {size - 1}; "
                "were these codes made by another codec?"
            )
