"""Our Triton kernels compute what PyTorch computes: on a GPU, or by Triton's interpreter on a CPU.

Collected only by name: `test_kernels.py` runs it in a process of its own, because Triton decides
when it is imported whether it interprets.
"""

import pytest
import torch
from torch.nn import functional as F

from speechmill.codecs.nn.kernels.layer_norm import layer_norm

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("gelu", [False, True])
def test_layer_norm_of_bf16_equals_that_of_float32(gelu: bool) -> None:
    x_BFD = (3 * torch.randn(3, 37, 48, device=DEVICE) + 1).bfloat16()
    weight_D, bias_D = torch.randn(48, device=DEVICE), torch.randn(48, device=DEVICE)
    y_BFD = layer_norm(x_BFD, weight_D, bias_D, 1e-5, torch.float32, gelu)
    expected_BFD = F.layer_norm(x_BFD.float(), (48,), weight_D, bias_D, 1e-5)
    torch.testing.assert_close(y_BFD, F.gelu(expected_BFD) if gelu else expected_BFD)
