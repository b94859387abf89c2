"""Linear layers in the order of a CPU's kernels."""

import torch
from torch import nn

from speechmill.codecs.nn.cpu_kernels import PackedLinear, pack_linears


@torch.inference_mode()
def test_a_packed_layer_computes_what_the_layer_computed() -> None:
    for linear in (nn.Linear(48, 96), nn.Linear(48, 96, bias=False)):
        packed = PackedLinear(linear)
        for shape in ((1, 48), (3, 1, 48), (2, 700, 48)):
            x = torch.randn(shape)
            torch.testing.assert_close(packed(x), linear(x))


def test_all_linear_layers_are_replaced_and_only_these() -> None:
    inner = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    network = nn.Sequential(inner, nn.Conv1d(8, 8, 1), nn.Linear(8, 4))
    x = torch.randn(2, 8)
    expected = inner(x)
    pack_linears(network)
    assert [type(module) for module in inner] == [PackedLinear, nn.LayerNorm]
    assert [type(module) for module in network] == [nn.Sequential, nn.Conv1d, PackedLinear]
    torch.testing.assert_close(inner(x), expected)
