"""Layer normalisation whose result goes into a matrix product."""

from torch import Tensor, nn
from torch.nn import functional as F

from speechmill.codecs.nn.kernels import fused_dtype


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over one dimension; below float32 on CUDA, its result is of that precision.

    Autocast would norm in float32 and round for the product that follows: the same numbers, but
    two to three times as many bytes. Where the result is a residual stream, use `nn.LayerNorm`.
    """

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        """Return the normed `x`, after a GELU if `gelu`."""
        dtype = fused_dtype(x)
        if dtype is not None:
            from speechmill.codecs.nn.kernels.layer_norm import layer_norm

            y: Tensor = layer_norm(x, self.weight, self.bias, self.eps, dtype, gelu)
            return y
        y = super().forward(x)
        return F.gelu(y) if gelu else y
