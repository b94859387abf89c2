"""Attention with a score per query and clipped distance, which is never stored as a matrix."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechmill.codecs.nn.kernels.device import device_of

_TILE = 64  # queries, and keys, at a time: larger tiles need more registers than there are
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def _attention(
    query_ptr: tl.tensor,
    key_ptr: tl.tensor,
    value_ptr: tl.tensor,
    score_ptr: tl.tensor,
    attended_ptr: tl.tensor,
    y_ptr: tl.tensor,
    size: tl.tensor,
    heads: tl.tensor,
    width: tl.tensor,
    left: tl.tensor,
    right: tl.tensor,
    scale: tl.tensor,
    HAS_ATTENDED: tl.constexpr,
    TILE: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    head = tl.program_id(1) % heads
    batch = (tl.program_id(1) // heads).to(tl.int64)
    first = tl.program_id(0) * TILE
    query_Q = first + tl.arange(0, TILE)
    column_E = tl.arange(0, WIDTH)
    is_query_Q, is_column_E = query_Q < size, column_E < width
    inside_QE = is_query_Q[:, None] & is_column_E[None, :]
    # of the head's first frame, so that the places of others are small numbers
    origin = batch * size * heads + head
    query_ptr += origin * width
    key_ptr += origin * width
    value_ptr += origin * width
    y_ptr += origin * width
    score_ptr += origin * (left + right + 1) + left  # of distance 0
    place_QE = query_Q[:, None] * (heads * width) + column_E[None, :]
    query_QE = tl.load(query_ptr + place_QE, mask=inside_QE, other=0.0)
    score_Q = query_Q * (heads * (left + right + 1))
    leftmost_Q = tl.load(score_ptr + score_Q - left, mask=is_query_Q, other=0.0).to(tl.float32)
    rightmost_Q = tl.load(score_ptr + score_Q + right, mask=is_query_Q, other=0.0).to(tl.float32)
    last = size
    if HAS_ATTENDED:
        last = tl.minimum(tl.load(attended_ptr + batch).to(tl.int32), size)

    best_Q = tl.full([TILE], float("-inf"), tl.float32)
    total_Q = tl.zeros([TILE], tl.float32)
    sum_QE = tl.zeros([TILE, WIDTH], tl.float32)
    for start in range(0, last, TILE):
        key_K = start + tl.arange(0, TILE)
        is_key_K = key_K < last
        inside_KE = is_key_K[:, None] & is_column_E[None, :]
        place_KE = key_K[:, None] * (heads * width) + column_E[None, :]
        key_KE = tl.load(key_ptr + place_KE, mask=inside_KE, other=0.0)
        if (start + TILE > first - left) & (start < first + TILE + right):
            distance_QK = key_K[None, :] - query_Q[:, None]
            distance_QK = tl.minimum(tl.maximum(distance_QK, -left), right)
            inside_QK = is_query_Q[:, None] & is_key_K[None, :]
            bias_QK = tl.load(score_ptr + score_Q[:, None] + distance_QK, mask=inside_QK, other=0.0)
            bias_QK = bias_QK.to(tl.float32)
        else:  # all distances are clipped on one side
            far_Q = tl.where(start < first, leftmost_Q, rightmost_Q)
            bias_QK = tl.broadcast_to(far_Q[:, None], [TILE, TILE])
        score_QK = (tl.dot(query_QE, tl.trans(key_KE)) + bias_QK) * scale * _LOG2_E
        score_QK = tl.where(is_key_K[None, :], score_QK, float("-inf"))
        better_Q = tl.maximum(best_Q, tl.max(score_QK, 1))
        share_QK = tl.exp2(score_QK - better_Q[:, None])
        fade_Q = tl.exp2(best_Q - better_Q)
        value_KE = tl.load(value_ptr + place_KE, mask=inside_KE, other=0.0)
        total_Q = total_Q * fade_Q + tl.sum(share_QK, 1)
        sum_QE = tl.dot(share_QK.to(value_KE.dtype), value_KE, sum_QE * fade_Q[:, None])
        best_Q = better_Q
    y_QE = sum_QE / total_Q[:, None]
    tl.store(y_ptr + place_QE, y_QE.to(y_ptr.dtype.element_ty), mask=inside_QE)


@torch.library.custom_op("speechmill::distance_attention", mutates_args=())
def distance_attention(
    query_BSD: Tensor,
    key_BSD: Tensor,
    value_BSD: Tensor,
    score_BSHP: Tensor,
    left: int,
    attended_B: Tensor | None,
) -> Tensor:
    """Return y_BSD of H heads; only the first `attended_B` keys, at least one, are attended to.

    The product of query s and key t is increased by the score of t - s, clipped to at least `-left`
    and at most the P - left - 1 that is left; the sum is divided by the root of the head's width.
    """
    batch, size, heads, places = score_BSHP.shape
    width = query_BSD.shape[-1] // heads
    query_BSD, key_BSD, value_BSD, score_BSHP = (
        x.contiguous() for x in (query_BSD, key_BSD, value_BSD, score_BSHP)
    )
    y_BSD = torch.empty_like(query_BSD)
    with device_of(query_BSD):
        _attention[(triton.cdiv(size, _TILE), batch * heads)](
            query_BSD,
            key_BSD,
            value_BSD,
            score_BSHP,
            query_BSD if attended_B is None else attended_B,
            y_BSD,
            size,
            heads,
            width,
            left,
            places - left - 1,
            width**-0.5,
            attended_B is not None,
            _TILE,
            max(16, triton.next_power_of_2(width)),  # tensor cores take no less than 16
            num_warps=4,
            num_stages=2,
        )
    return y_BSD


@distance_attention.register_fake
def _fake(query_BSD: Tensor, *_: object) -> Tensor:
    return torch.empty_like(query_BSD)
