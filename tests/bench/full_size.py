"""The networks of the codecs at full size and their masked encode, which is what a GPU computes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from speechmill.codecs.checkpoint import allocate, fold_weight_norm
from speechmill.codecs.dualcodec.config import VARIANTS as DUALCODEC
from speechmill.codecs.dualcodec.config import DualCodecConfig
from speechmill.codecs.dualcodec.model import DualCodecNetwork
from speechmill.codecs.dualcodec.semantic import SemanticFeatures
from speechmill.codecs.dualcodec.w2vbert import W2VBert
from speechmill.codecs.focalcodec.config import SAMPLE_RATE as FOCALCODEC_RATE
from speechmill.codecs.focalcodec.config import VARIANTS as FOCALCODEC
from speechmill.codecs.focalcodec.config import FocalCodecConfig
from speechmill.codecs.focalcodec.focal import prepare_for_cuda
from speechmill.codecs.focalcodec.model import FocalCodecNetwork
from speechmill.codecs.hasrd.config import SAMPLE_RATE as HASRD_RATE
from speechmill.codecs.hasrd.config import VARIANTS as HASRD
from speechmill.codecs.hasrd.config import HasrdConfig
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import feature_model
from speechmill.codecs.nn.factorized import FactorizedQuantizer
from speechmill.codecs.nn.masks import mask_padding
from speechmill.codecs.nn.whisper.sizes import SAMPLE_RATE as SIMWHISPER_RATE
from speechmill.codecs.pure.config import VARIANTS as PURE
from speechmill.codecs.pure.config import PureConfig
from speechmill.codecs.pure.model import PureNetwork
from speechmill.codecs.simwhisper.config import VARIANTS as SIMWHISPER
from speechmill.codecs.simwhisper.config import SimWhisperConfig
from speechmill.codecs.simwhisper.model import SimWhisperNetwork

Encode = Callable[[Tensor, Tensor], Tensor]  # audio_BT and lengths_B to codes_BKF
Networks = Sequence[nn.Module]
Sized = tuple[Encode, Networks, int]  # the last is the sampling rate, Hz


def focalcodec(config: FocalCodecConfig) -> Sized:
    network = allocate(lambda: FocalCodecNetwork(config))
    prepare_for_cuda(network)
    return network.encode, [network], FOCALCODEC_RATE


def simwhisper(config: SimWhisperConfig) -> Sized:
    network = allocate(lambda: SimWhisperNetwork(config))
    hop = config.hop_length

    def encode(audio_BT: Tensor, lengths_B: Tensor) -> Tensor:
        return network.encode(audio_BT, -(-audio_BT.shape[1] // hop), lengths_B)

    return encode, [network], SIMWHISPER_RATE


def dualcodec(config: DualCodecConfig) -> Sized:
    network = allocate(lambda: DualCodecNetwork(config))
    fold_weight_norm(network)
    for module in network.modules():
        if isinstance(module, FactorizedQuantizer):
            module.cache_directions()
    width = config.semantic_in_dim
    w2vbert = allocate(lambda: W2VBert(config.w2vbert))
    semantic = SemanticFeatures(config, w2vbert, torch.zeros(width), torch.ones(width))
    books = len(config.codebook_sizes)

    def encode(audio_BT: Tensor, lengths_B: Tensor) -> Tensor:
        pooled_BND = semantic(audio_BT, lengths_B)
        frames_B = lengths_B // config.hop_length
        return network.encode(audio_BT, pooled_BND, books, lengths_B, frames_B)

    return encode, [network, semantic], config.sample_rate


def hasrd(config: HasrdConfig) -> Sized:
    network = allocate(lambda: HasrdNetwork(config))
    fold_weight_norm(network)
    network.cache_tables()
    ssl = allocate(lambda: feature_model(config.ssl, config.semantic_layer))
    hop = config.hop_length

    def encode(audio_BT: Tensor, lengths_B: Tensor) -> Tensor:
        frames_B = lengths_B // hop
        states = ssl(ssl.prepare(audio_BT, lengths_B), lengths_B)
        framed_BT = mask_padding(audio_BT[:, : audio_BT.shape[1] // hop * hop], frames_B * hop)
        return network.encode(states, framed_BT, config.num_codebooks, frames_B)

    return encode, [network, ssl], HASRD_RATE


def pure(config: PureConfig) -> Sized:
    network = allocate(lambda: PureNetwork(config))
    fold_weight_norm(network)
    network.quantizer.cache_norms()

    def encode(audio_BT: Tensor, lengths_B: Tensor) -> Tensor:
        return network.encode(audio_BT, config.num_codebooks, lengths_B)

    return encode, [network], config.sample_rate


NETWORKS: dict[str, Callable[[], Sized]] = {
    "focalcodec-50hz": lambda: focalcodec(FOCALCODEC["focalcodec-50hz"]),
    "simwhisper-16k": lambda: simwhisper(SIMWHISPER["simwhisper-16k"]),
    "dualcodec-12hz": lambda: dualcodec(DUALCODEC["dualcodec-12hz"]),
    "hasrd-2k": lambda: hasrd(HASRD["hasrd-2k"]),
    "pure-4k": lambda: pure(PURE["pure-4k"]),
    "focalcodec-50hz-4k-causal": lambda: focalcodec(FOCALCODEC["focalcodec-50hz-4k-causal"]),
}
