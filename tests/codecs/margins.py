"""The margin by which each codec chose its codes; near zero it is a tie, which rounding decides.

`margins(codec, clip_T, codes_KF)` returns margin_KF for the codes of the clip alone, in the unit of
the decision: a squared distance, a cosine, or a fraction of a level.
"""

from functools import singledispatch

import torch
from torch import Tensor
from torch.nn import functional as F

from speechmill.codecs import Codec
from speechmill.codecs.dualcodec.codec import DualCodec
from speechmill.codecs.focalcodec.codec import FocalCodec
from speechmill.codecs.hasrd.codec import HasrdCodec
from speechmill.codecs.nn.factorized import FactorizedQuantizer
from speechmill.codecs.nn.quantize import ResidualQuantizer
from speechmill.codecs.pure.codec import PureCodec
from speechmill.codecs.simwhisper.codec import SimWhisperCodec


@singledispatch
def margins(codec: Codec, clip_T: Tensor, codes_KF: Tensor) -> Tensor:
    """Infinite: for codecs that decide without rounding, or without a function here."""
    return torch.full(codes_KF.shape, torch.inf)


@margins.register
@torch.inference_mode()
def _(codec: PureCodec, clip_T: Tensor, codes_KF: Tensor) -> Tensor:
    quantizer = codec.network.quantizer
    residual_FD = codec.network.posterior(clip_T[None])[0][0].T
    distances = []
    for stage, codes_F in enumerate(codes_KF):
        distances.append(quantizer.distances(residual_FD, stage))
        residual_FD = residual_FD - quantizer.codebooks_KND[stage][codes_F]
    return _between_best(distances)


@margins.register
@torch.inference_mode()
def _(codec: FocalCodec, clip_T: Tensor, codes_KF: Tensor) -> Tensor:
    latents_FD = F.normalize(codec.network.latents(clip_T[None]), dim=-1)[0]
    return latents_FD.abs().amin(-1)[None, : codes_KF.shape[1]]


@margins.register
@torch.inference_mode()
def _(codec: SimWhisperCodec, clip_T: Tensor, codes_KF: Tensor) -> Tensor:
    frames, quantizer = codes_KF.shape[1], codec.network.quantizer
    bound_KLF = quantizer.bound(codec.network.latents(clip_T[None], frames, None))[0]
    return (0.5 - (bound_KLF - bound_KLF.round()).abs()).amin(1)


@margins.register
@torch.inference_mode()
def _(codec: DualCodec, clip_T: Tensor, codes_KF: Tensor) -> Tensor:
    network, audio_BT = codec.network, clip_T[None]
    assert codec.semantic is not None
    semantic_BND = network.semantic_encoder(codec.semantic(audio_BT), None)
    cosines = [network.semantic_quantizer.cosines(semantic_BND)[0]]
    residual_BND = network.acoustic_latent(audio_BT, codes_KF.shape[1])
    residual_BND = residual_BND - network.semantic_latent(codes_KF[None, 0])
    for stage, codes_F in zip(network.acoustic_quantizer.stages, codes_KF[1:], strict=False):
        assert isinstance(stage, FactorizedQuantizer)
        cosines.append(stage.cosines(residual_BND)[0])
        residual_BND = residual_BND - stage.decode(codes_F[None])
    return _between_best([-cosines_FN for cosines_FN in cosines])


@margins.register
@torch.inference_mode()
def _(codec: HasrdCodec, clip_T: Tensor, codes_KF: Tensor) -> Tensor:
    network, size = codec.network, codes_KF.shape[1] * codec.info.hop_length
    assert codec.ssl is not None
    framed_BT = F.pad(clip_T[None], (0, size - len(clip_T)))
    prepared_BT = codec.ssl.prepare(clip_T[None])
    taps = network.taps(codec.ssl(F.pad(prepared_BT, (0, max(0, size - len(clip_T))))))
    found = [network.centroids.distances(taps.semantic_BFH[0], 0)]
    residual_FD = network.residual(taps, framed_BT, codes_KF[None, 0])[0]
    for stage, codes_F in enumerate(codes_KF[1:]):
        if isinstance(network.quantizer, ResidualQuantizer):
            found.append(network.quantizer.distances(residual_FD, stage))
            residual_FD = residual_FD - network.quantizer.codebooks_KND[stage][codes_F]
        else:
            book = network.quantizer.stages[stage]
            assert isinstance(book, FactorizedQuantizer)
            found.append(-book.cosines(residual_FD[None])[0])
            residual_FD = residual_FD - book.decode(codes_F[None])[0]
    return _between_best(found)


def _between_best(scores: list[Tensor]) -> Tensor:
    """Return margin_KF, the second lowest of each score_FN less the lowest."""
    best_KF2 = torch.stack([score_FN.topk(2, largest=False).values for score_FN in scores])
    return best_KF2[..., 1] - best_KF2[..., 0]
