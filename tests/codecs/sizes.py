"""The networks of each variant, at full size and without weights."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from speechmill.codecs.checkpoint import fold_weight_norm
from speechmill.codecs.dualcodec.config import VARIANTS as DUALCODEC
from speechmill.codecs.dualcodec.model import DualCodecNetwork
from speechmill.codecs.dualcodec.w2vbert import W2VBert
from speechmill.codecs.focalcodec.config import VARIANTS as FOCALCODEC
from speechmill.codecs.focalcodec.model import FocalCodecNetwork
from speechmill.codecs.hasrd.config import VARIANTS as HASRD
from speechmill.codecs.hasrd.model import HasrdNetwork
from speechmill.codecs.hasrd.ssl import feature_model
from speechmill.codecs.pure.config import VARIANTS as PURE
from speechmill.codecs.pure.model import PureNetwork
from speechmill.codecs.simwhisper.config import VARIANTS as SIMWHISPER
from speechmill.codecs.simwhisper.model import SimWhisperNetwork
from speechmill.codecs.transformers_codecs.config import VARIANTS as TRANSFORMERS
from speechmill.codecs.transformers_codecs.config import read_transformers_config

_OF_TRAINING = ("cluster_usage", "cluster_size", "embed_avg", "inited", "initialized")
NETWORKS: dict[str, Callable[[], list[nn.Module]]] = {
    "null": list,
    **{name: lambda c=c: [PureNetwork(c)] for name, c in PURE.items()},
    **{name: lambda c=c: [FocalCodecNetwork(c)] for name, c in FOCALCODEC.items()},
    **{name: lambda c=c: [SimWhisperNetwork(c)] for name, c in SIMWHISPER.items()},
    **{
        name: lambda c=c: [DualCodecNetwork(c), W2VBert(c.w2vbert)] for name, c in DUALCODEC.items()
    },
    **{name: lambda c=c: [_transformers(c)] for name, c in TRANSFORMERS.items()},
    **{
        name: lambda c=c: [HasrdNetwork(c), feature_model(c.ssl, c.semantic_layer)]
        for name, c in HASRD.items()
    },
}


def _transformers(values: dict[str, Any]) -> nn.Module:
    # Importing transformers takes seconds, which a run of other tests need not spend.
    from speechmill.codecs.transformers_codecs.weights import allocate_transformers

    return allocate_transformers(read_transformers_config(values, None))


def count_parameters(variant: str) -> int:
    """Return the number of weights that encode and decode; factors of weight norm count once."""
    return count_networks(NETWORKS[variant])


def count_networks(build: Callable[[], list[nn.Module]]) -> int:
    """Return the same number for any networks."""
    with torch.device("meta"):
        networks = build()
    for network in networks:
        fold_weight_norm(network)
    weights = [item for network in networks for item in network.state_dict().items()]
    return sum(value.numel() for key, value in weights if not key.endswith(_OF_TRAINING))
