"""Linear layers whose weights lie in the order that a CPU's matrix kernels read them."""

import torch
from torch import Tensor, nn

_ROWS = 512  # that the layout is chosen for; others work as well


class PackedLinear(nn.Module):
    """A linear layer for inference in float32 on a CPU: it gives up its weight, and training.

    A plain linear layer has its weight sorted anew in every call: on 2 cores with AVX-512 that was
    a quarter of the time of a thousand rows, and nearly half of that of a hundred.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._packed, self._bias, "none", [], None
        )
        return y


def pack_linears(network: nn.Module) -> None:
    """Replace the linear layers inside `network` by packed ones, where this CPU can do so."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))
