"""Equality of tokens, with ties counted apart."""

import torch
from torch import Tensor

from speech_codecs import Codec
from speech_codecs.pure.codec import PureCodec

TIE = 1e-5  # squared distance by which the best codeword beats the second


def encode_alone(codec: Codec, clip_T: Tensor) -> Tensor:
    return codec.encode(clip_T[None], torch.tensor([len(clip_T)]))[0]


def assert_same_tokens(codec: Codec, clip_T: Tensor, actual_KF: Tensor) -> int:
    """Fail unless the tokens are those of the clip alone; return how many frames differ by a tie.

    A frame is judged by its first differing codebook: the later ones code another residual.
    """
    expected_KF = encode_alone(codec, clip_T)
    assert actual_KF.shape == expected_KF.shape
    differs_KF = actual_KF != expected_KF
    frames_N = differs_KF.any(0).nonzero().flatten()
    if len(frames_N) == 0:
        return 0
    first_N = differs_KF[:, frames_N].int().argmax(0)
    margins_N = decision_margins(codec, clip_T, expected_KF)[first_N, frames_N]
    ties = int((margins_N < TIE).sum())
    assert ties == len(frames_N), (
        f"{len(frames_N)} of {actual_KF.shape[1]} frames differ, {ties} by a tie; "
        f"margins {margins_N.tolist()[:10]}"
    )
    print(f"{ties} of {actual_KF.shape[1]} frames differ by a tie")
    return ties


def decision_margins(codec: Codec, clip_T: Tensor, codes_KF: Tensor) -> Tensor:
    """Return margin_KF; a codec that decides without rounding has margins without end."""
    if not isinstance(codec, PureCodec):
        return torch.full(codes_KF.shape, torch.inf)
    quantizer = codec.network.quantizer
    with torch.inference_mode():
        residual_FD = codec.network.posterior(clip_T[None])[0][0].T
        margins = []
        for stage, codes_F in enumerate(codes_KF):
            nearest = quantizer.distances(residual_FD, stage).topk(2, largest=False).values
            margins.append(nearest[:, 1] - nearest[:, 0])
            residual_FD = residual_FD - quantizer.codebooks_KND[stage][codes_F]
    return torch.stack(margins)
