"""WavLM's attention: each query gates a bias by distance, which is never stored as a matrix."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from speechmill.codecs.nn.kernels.device import device_of

_TILE = 64  # queries, and keys, at a time: larger tiles need more registers than there are
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit  # type: ignore[untyped-decorator]
def _gate(
    x_QE: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    column_E: tl.tensor,
    width: tl.tensor,
) -> tl.tensor:
    """Return sigmoid(the sum of the four outputs of a linear layer) of each query."""
    weight_E = tl.zeros_like(column_E).to(tl.float32)
    bias = 0.0
    for row in tl.static_range(4):
        row_ptr = weight_ptr + row * width + column_E
        weight_E += tl.load(row_ptr, mask=column_E < width, other=0.0).to(tl.float32)
        bias += tl.load(bias_ptr + row).to(tl.float32)
    return tl.sigmoid(tl.sum(x_QE * weight_E[None, :], 1) + bias)


@triton.jit  # type: ignore[untyped-decorator]
def _attention(
    query_ptr: tl.tensor,
    key_ptr: tl.tensor,
    value_ptr: tl.tensor,
    end_ptr: tl.tensor,
    x_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    constant_ptr: tl.tensor,
    table_ptr: tl.tensor,
    y_ptr: tl.tensor,
    query_b: tl.tensor,
    query_h: tl.tensor,
    query_f: tl.tensor,
    key_b: tl.tensor,
    key_h: tl.tensor,
    key_f: tl.tensor,
    value_b: tl.tensor,
    value_h: tl.tensor,
    value_f: tl.tensor,
    end_b: tl.tensor,
    end_q: tl.tensor,
    queries: tl.tensor,
    keys: tl.tensor,
    heads: tl.tensor,
    width: tl.tensor,
    window: tl.tensor,
    scale: tl.tensor,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    head = tl.program_id(1) % heads
    batch = (tl.program_id(1) // heads).to(tl.int64)
    query_Q = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    column_E = tl.arange(0, WIDTH)
    is_query_Q, is_column_E = query_Q < queries, column_E < width
    inside_QE = is_query_Q[:, None] & is_column_E[None, :]

    place_QE = batch * query_b + head * query_h + query_Q[:, None] * query_f + column_E[None, :]
    query_QE = tl.load(query_ptr + place_QE, mask=inside_QE, other=0.0)
    row_Q = (batch * queries + query_Q) * heads + head  # of x and y, which have the same layout
    place_QE = row_Q[:, None] * width + column_E[None, :]
    x_QE = tl.load(x_ptr + place_QE, mask=inside_QE, other=0.0).to(tl.float32)
    one_Q = _gate(x_QE, weight_ptr, bias_ptr, column_E, width)
    two_Q = _gate(x_QE, weight_ptr + 4 * width, bias_ptr + 4, column_E, width)
    gate_Q = one_Q * (two_Q * tl.load(constant_ptr + head).to(tl.float32) - 1.0) + 2.0

    end_Q = tl.load(end_ptr + batch * end_b + query_Q * end_q, mask=is_query_Q, other=0).to(
        tl.int32
    )
    start_Q = tl.where(is_query_Q, end_Q - window, keys)
    first = tl.maximum(tl.min(start_Q, 0), 0) // KEYS * KEYS
    last = tl.minimum(tl.max(end_Q, 0), keys)
    table_ptr += head * (queries + keys - 1) + queries - 1

    best_Q = tl.full([QUERIES], float("-inf"), tl.float32)
    total_Q = tl.zeros([QUERIES], tl.float32)
    sum_QE = tl.zeros([QUERIES, WIDTH], tl.float32)
    for start in range(first, last, KEYS):
        key_K = start + tl.arange(0, KEYS)
        is_key_K = key_K < keys
        inside_KE = is_key_K[:, None] & is_column_E[None, :]
        place_KE = batch * key_b + head * key_h + key_K[:, None] * key_f + column_E[None, :]
        key_KE = tl.load(key_ptr + place_KE, mask=inside_KE, other=0.0)
        seen_QK = (key_K[None, :] < end_Q[:, None]) & (key_K[None, :] >= start_Q[:, None])
        distance_QK = key_K[None, :] - query_Q[:, None]
        bias_QK = tl.load(table_ptr + distance_QK, mask=seen_QK, other=0.0).to(tl.float32)
        score_QK = tl.dot(query_QE, tl.trans(key_KE)) * scale + gate_Q[:, None] * bias_QK
        score_QK = tl.where(seen_QK, score_QK * _LOG2_E, float("-inf"))
        better_Q = tl.maximum(best_Q, tl.max(score_QK, 1))
        zero_Q = tl.where(better_Q == float("-inf"), 0.0, better_Q)  # no key was seen so far
        share_QK = tl.exp2(score_QK - zero_Q[:, None])
        fade_Q = tl.exp2(best_Q - zero_Q)
        place_KE = batch * value_b + head * value_h + key_K[:, None] * value_f + column_E[None, :]
        value_KE = tl.load(value_ptr + place_KE, mask=inside_KE, other=0.0)
        total_Q = total_Q * fade_Q + tl.sum(share_QK, 1)
        sum_QE = tl.dot(share_QK.to(value_KE.dtype), value_KE, sum_QE * fade_Q[:, None])
        best_Q = better_Q
    y_QE = sum_QE / tl.where(total_Q == 0.0, 1.0, total_Q)[:, None]
    tl.store(y_ptr + place_QE, y_QE.to(y_ptr.dtype.element_ty), mask=inside_QE)


@torch.library.custom_op("speechmill::gated_attention", mutates_args=())
def gated_attention(
    query_BHQE: Tensor,
    key_BHKE: Tensor,
    value_BHKE: Tensor,
    end_BQ: Tensor,
    window: int,
    x_BQD: Tensor,
    gate_weight_8E: Tensor,
    gate_bias_8: Tensor,
    gate_constant_H: Tensor,
    table_HN: Tensor,
) -> Tensor:
    """Return y_BQD: each query attends to the `window` keys before its `end_BQ`.

    Either dimension of `end_BQ` may be 1.
    The bias of a query and a key is the query's gate, computed from x_BQD, times the table's entry
    for their distance; the table starts with the distance of the first key from the last query.
    """
    batch, heads, queries, width = query_BHQE.shape
    keys = key_BHKE.shape[2]
    end_BQ = end_BQ.expand(batch, queries)
    x_BQD = x_BQD.contiguous()
    y_BQD = torch.empty(x_BQD.shape, dtype=query_BHQE.dtype, device=x_BQD.device)
    with device_of(x_BQD):
        _attention[(triton.cdiv(queries, _TILE), batch * heads)](
            query_BHQE,
            key_BHKE,
            value_BHKE,
            end_BQ,
            x_BQD,
            gate_weight_8E,
            gate_bias_8,
            gate_constant_H,
            table_HN.contiguous(),
            y_BQD,
            *query_BHQE.stride()[:3],
            *key_BHKE.stride()[:3],
            *value_BHKE.stride()[:3],
            *end_BQ.stride(),
            queries,
            keys,
            heads,
            width,
            window,
            width**-0.5,
            _TILE,
            _TILE,
            max(16, triton.next_power_of_2(width)),  # tensor cores take no less than 16
            num_warps=4,
            num_stages=2,
        )
    return y_BQD


@gated_attention.register_fake
def _fake(
    query_BHQE: Tensor,
    key_BHKE: Tensor,
    value_BHKE: Tensor,
    end_BQ: Tensor,
    window: int,
    x_BQD: Tensor,
    gate_weight_8E: Tensor,
    gate_bias_8: Tensor,
    gate_constant_H: Tensor,
    table_HN: Tensor,
) -> Tensor:
    return torch.empty(x_BQD.shape, dtype=query_BHQE.dtype, device=x_BQD.device)
