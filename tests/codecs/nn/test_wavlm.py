"""WavLM's attention in blocks of queries."""

import pytest
import torch

from speechmill.codecs.nn import query_blocks
from speechmill.codecs.nn.wavlm.encoder import WavLMEncoder
from speechmill.codecs.nn.wavlm.sizes import WavLMSizes


@pytest.mark.parametrize("causal", [False, True])
def test_blocks_of_queries_give_the_bits_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    sizes = WavLMSizes(
        conv_dims=(),
        kernels=(),
        strides=(),
        num_layers=1,
        dim=64,
        ffn_dim=64,
        heads=2,
        positions_kernel=18,
        positions_groups=4,
        num_buckets=32,
        max_distance=80,
        causal=causal,
        window=512,
    )
    encoder = WavLMEncoder(sizes).requires_grad_(False)
    x_BFD, lengths_B = torch.randn(2, 2_100, 64), torch.tensor([2_100, 1_500])
    *_, in_blocks_BFD = encoder(x_BFD, lengths_B)
    monkeypatch.setattr(query_blocks, "BLOCK", 10_000)
    *_, whole_BFD = encoder(x_BFD, lengths_B)
    assert torch.equal(in_blocks_BFD, whole_BFD)
