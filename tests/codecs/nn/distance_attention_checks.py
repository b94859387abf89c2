"""The Triton kernel of w2v-BERT's attention, against PyTorch's; see `kernel_checks.py`."""

import pytest
import torch
from torch.nn import functional as F

from speechmill.codecs.nn.kernels.distance_attention import distance_attention

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("attended", [None, [150, 1]])
def test_distance_attention_equals_that_with_a_dense_bias(attended: list[int] | None) -> None:
    size, heads, left, places = 150, 2, 20, 29
    query_BSD, key_BSD, value_BSD = torch.randn(3, 2, size, heads * 24, device=DEVICE)
    score_BSHP = torch.randn(2, size, heads, places, device=DEVICE)
    frame_S = torch.arange(size, device=DEVICE)
    position_QK = (frame_S - frame_S[:, None] + left).clamp(0, places - 1)
    position_BHQK = position_QK.expand(2, heads, -1, -1)
    bias_BHQK = score_BSHP.transpose(1, 2).gather(-1, position_BHQK) / 24**0.5
    attended_B = None if attended is None else torch.tensor(attended, device=DEVICE)
    if attended_B is not None:
        hidden_BK = frame_S >= attended_B[:, None]
        bias_BHQK = bias_BHQK.masked_fill(hidden_BK[:, None, None], -torch.inf)
    inputs = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query_BSD, key_BSD, value_BSD)]
    expected_BSD = F.scaled_dot_product_attention(*inputs, bias_BHQK).transpose(1, 2).flatten(2)
    y_BSD = distance_attention(query_BSD, key_BSD, value_BSD, score_BSHP, left, attended_B)
    tolerance = 1e-3 if DEVICE == "cuda" else 1e-5  # tf32 or float32
    torch.testing.assert_close(y_BSD, expected_BSD, atol=tolerance, rtol=1e-3)
