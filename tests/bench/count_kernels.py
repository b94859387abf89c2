"""The kernels and bytes of one encode on a GPU, counted on fake CUDA tensors: no GPU is needed.

    python -m tests.bench.count_kernels [focalcodec-50hz …] [--precision bf16] [--table]

Prints one row per codec: full-size encoder, masked batch of 15 rows of 11.2 s that hold 156 s of
speech. Every operation that is not a view counts as one kernel, also one of our own. Bytes are
those of its inputs and outputs. PyTorch's choice of attention kernel is imitated: a mask becomes
a bias for the memory-efficient kernel, and no mask means flash attention. The time is a prediction
by the rates below; an LSTM's steps, which wait for one another, are not in it.
"""

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, register_flop_formula

from speechmill.codecs.nn import kernels
from speechmill.codecs.nn.kernels.attention import gated_attention
from speechmill.codecs.nn.kernels.distance_attention import distance_attention
from speechmill.codecs.nn.kernels.grouped_conv import grouped_conv_gelu
from speechmill.codecs.precision import AUTOCAST, cast_weights
from tests.bench.full_size import NETWORKS, Encode, Networks

CUDA = torch.device("cuda:0")
ROWS, SECONDS, SPEECH = 15, 11.2, 156.0  # rows of a batch, s of each, s of speech in all
PRECISIONS = ("bf16", "fp16", "fp32")
# assumed of an H200, as in tests/gpu/README.md: TFLOP/s, bytes/s, s per kernel
_RATES = {"gemm": 500e12, "conv": 300e12, "attention": 150e12, "grouped": 40e12, "depthwise": 5e12}
_FLOAT32_SHARE = 0.1  # of a rate, without tensor cores
_BANDWIDTH, _LAUNCH = 3.7e12, 2e-6
_NO_KERNEL = {
    "detach",
    "empty",
    "empty_like",
    "empty_strided",
    "new_empty",
    "device",
    "_unsafe_view",
}
_SYNCS = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "_unique2"}
_TRANSFERS = {"_to_copy", "copy_"}


@dataclass
class Counts:
    """What one encode costs; `by_op` has kernels, bytes, FLOP and seconds of each kind of call."""

    kernels: int = 0
    num_bytes: int = 0
    flop: int = 0
    seconds: float = 0.0
    copies: int = 0  # from host to device
    syncs: list[str] = field(default_factory=list)  # operations for which the host waits
    shapes: set[str] = field(default_factory=set)
    by_op: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def add(self, name: str, shapes: str, num_bytes: int, flop: int, rate: float) -> None:
        seconds = max(num_bytes / _BANDWIDTH, flop / rate, _LAUNCH)
        self.kernels += 1
        self.num_bytes += num_bytes
        self.flop += flop
        self.seconds += seconds
        self.shapes.add(f"{name} {shapes}")
        row = self.by_op[f"{name} {shapes}"]
        row.update(kernels=1, bytes=num_bytes, flop=flop, microseconds=round(seconds * 1e6))


class KernelCounter(TorchDispatchMode):
    """Counts the operations of the block below autocast and below compositions."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        out = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        self._note_transfer(name, inputs, outputs)
        if name in _NO_KERNEL or _is_view(func) or "cuda" not in {t.device.type for t in outputs}:
            return out
        flop = _flop(func, name, args, kwargs, out)
        read = {id(tensor): tensor for tensor in inputs if tensor.device.type == "cuda"}.values()
        num_bytes = sum(_bytes(tensor) for tensor in (*read, *outputs))
        shapes = " ".join(_shape(tensor) for tensor in read) + f" -> {_dtype(outputs[0])}"
        self.counts.add(name, shapes, num_bytes, flop, _rate(name, args, outputs[0]))
        return out

    def _note_transfer(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        before = {tensor.device.type for tensor in inputs}
        after = {tensor.device.type for tensor in outputs}
        if name in _TRANSFERS and before | after == {"cpu", "cuda"}:
            if "cuda" in after:
                self.counts.copies += 1
            else:
                self.counts.syncs.append(name)
        elif name in _SYNCS and "cuda" in before:
            self.counts.syncs.append(name)


class GpuKernels(TorchFunctionMode):
    """Calls the kernels that a GPU would run where fake tensors would choose others."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        if func is torch._VF.lstm:
            return _lstm(*args)
        return func(*args, **kwargs)


def _attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    if attn_mask is None and q.dtype != torch.float32:
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[0]
    if attn_mask is not None:
        if attn_mask.dtype == torch.bool:
            zero, minus = q.new_zeros(()), q.new_full((), -torch.inf)
            attn_mask = torch.where(attn_mask, zero, minus)
        missing = -attn_mask.shape[-1] % 8
        if missing:  # the kernel needs aligned rows, so PyTorch copies the bias
            attn_mask = F.pad(attn_mask, (0, missing))[..., :-missing]
        attn_mask = attn_mask.to(q.dtype).expand(*q.shape[:3], k.shape[2])
    attend = torch.ops.aten._scaled_dot_product_efficient_attention
    return attend(q, k, v, attn_mask, False)[0]


def _lstm(
    x: Tensor, states: Sequence[Tensor], weights: list[Tensor], bias: bool, layers: int, *rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Count one kernel; autocast casts the input and, in every call, the weights."""
    if torch.is_autocast_enabled("cuda"):
        dtype = torch.get_autocast_dtype("cuda")
        x, states = x.to(dtype), [state.to(dtype) for state in states]
        weights = [weight.to(dtype) for weight in weights]
    return lstm(x, states[0], weights), states[0], states[1]


@register_flop_formula(gated_attention._opoverload.overloadpacket)
def _attention_flop(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
    return 4 * prod(query) * key[2]


@register_flop_formula(grouped_conv_gelu._opoverload.overloadpacket)
def _grouped_conv_flop(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * x[0] * (x[1] - weight[2] + 1) * prod(weight)


@register_flop_formula(distance_attention._opoverload.overloadpacket)
def _distance_attention_flop(query: Sequence[int], *_: Any, **__: Any) -> int:
    return 4 * prod(query) * query[1]


@torch.library.custom_op("bench::lstm", mutates_args=())
def lstm(x_TBC: Tensor, hidden_LBD: Tensor, weights: list[Tensor]) -> Tensor:
    """Stand for cuDNN's LSTM, which has no form for fake tensors."""
    raise NotImplementedError("only counted")


@lstm.register_fake
def _lstm_output(x_TBC: Tensor, hidden_LBD: Tensor, weights: list[Tensor]) -> Tensor:
    return x_TBC.new_empty(*x_TBC.shape[:2], hidden_LBD.shape[-1])


def count(encode: Encode, networks: Networks, rate: int, precision: str) -> Counts:
    """Return the counts of one encode of `ROWS` rows of `SECONDS` at `rate` Hz."""
    samples = round(SECONDS * rate)
    for network in networks:
        cast_weights(precision, network.to("meta"))
    with fake_cuda(precision):
        for network in networks:
            move(network)
        audio_BT = torch.empty(ROWS, samples, device=CUDA)
        lengths_B = torch.empty(ROWS, dtype=torch.int64, device=CUDA)
        with KernelCounter() as counter:
            encode(audio_BT, lengths_B)
    return counter.counts


@contextmanager
def fake_cuda(precision: str) -> Iterator[None]:
    """Compute with fake tensors, under autocast as on a GPU although there is none."""
    dtype = AUTOCAST.get(precision)
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    torch.set_autocast_enabled("cuda", dtype is not None)
    torch.set_autocast_dtype("cuda", dtype or before[1])
    try:
        with ExitStack() as stack:
            stack.enter_context(patch.object(kernels, "triton_works", lambda: True))
            stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
            stack.enter_context(GpuKernels())
            stack.enter_context(torch.no_grad())  # inference mode would hide what ops are made of
            yield
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
        torch.clear_autocast_cache()


def move(network: nn.Module) -> None:
    """Replace all weights and buffers by fake ones of the same layout on a GPU."""
    for module in network.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    fake = torch.empty_strided(
                        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA
                    )
                    is_weight = isinstance(tensor, nn.Parameter)
                    tensors[name] = nn.Parameter(fake, requires_grad=False) if is_weight else fake


def _is_view(func: Any) -> bool:
    infos = [returned.alias_info for returned in func._schema.returns]
    return any(info is not None and not info.is_write for info in infos)


def _flop(func: Any, name: str, args: Any, kwargs: Any, out: Any) -> int:
    if name == "lstm":
        steps, weights = prod(args[0].shape[:2]), args[2]
        return sum(2 * steps * weight.numel() for weight in weights if weight.dim() == 2)
    formula = flop_registry.get(func.overloadpacket)
    return int(formula(*args, **kwargs, out_val=out)) if formula else 0


def _rate(name: str, args: Any, out: Tensor) -> float:
    kind = "gemm"
    if name == "convolution":
        weight, groups = args[1], args[8]
        kind = "conv" if groups == 1 else "depthwise" if weight.shape[1] == 1 else "grouped"
    elif "attention" in name or name == "grouped_conv_gelu":
        kind = "attention"
    is_half = out.dtype in (torch.bfloat16, torch.float16)
    return _RATES[kind] * (1.0 if is_half or kind == "depthwise" else _FLOAT32_SHARE)


def _bytes(tensor: Tensor) -> int:
    """Return the bytes of the tensor's elements, each place in memory counted once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * prod(size for size, stride in sizes if stride)


def _shape(tensor: Tensor) -> str:
    return f"{_dtype(tensor)}{list(tensor.shape)}".replace(" ", "")


def _dtype(tensor: Tensor) -> str:
    kind = "bool" if tensor.dtype == torch.bool else str(tensor.dtype)[6:7]
    return kind if kind == "bool" else f"{kind}{8 * tensor.element_size()}"


def row(name: str, counts: Counts) -> str:
    """Return one row of the table."""
    milliseconds = counts.seconds * 1e3
    cells = (
        name,
        f"{counts.kernels:,}",
        f"{len(counts.shapes):,}",
        f"{counts.num_bytes / 1e9:.1f}",
        f"{counts.num_bytes / 1e6 / SPEECH:.0f}",
        f"{counts.flop / 1e9 / SPEECH:.1f}",
        str(counts.copies),
        ", ".join(counts.syncs) or "0",
        f"{milliseconds:.1f}",
        f"{SPEECH / counts.seconds:,.0f}",
    )
    return "| " + " | ".join(cells) + " |"


def table(counts: Counts, lines: int = 15) -> str:
    """Return the calls that move the most bytes."""
    rows = sorted(counts.by_op.items(), key=lambda item: -item[1]["bytes"])[:lines]
    texts = [
        f"| {name} | {cost['kernels']} | {cost['bytes'] / 1e9:.2f} | {cost['flop'] / 1e9:.0f} "
        f"| {cost['microseconds'] / 1e3:.2f} |"
        for name, cost in rows
    ]
    return "\n".join(["| operation | kernels | GB | GFLOP | ms |", "|---|---|---|---|---|", *texts])


HEAD = (
    "| codec | kernels | distinct calls | GB | MB per s | GFLOP per s | host-to-device copies "
    "| syncs | GPU ms | x real time |\n|---|---|---|---|---|---|---|---|---|---|"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("codecs", nargs="*", default=list(NETWORKS))
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--table", action="store_true", help="the calls that move the most bytes")
    arguments = parser.parse_args()
    print(HEAD)
    details = []
    for name in arguments.codecs:
        counts = count(*NETWORKS[name](), arguments.precision)
        print(row(name, counts), flush=True)
        details.append(f"\n{name}, {arguments.precision}\n\n{table(counts)}")
    if arguments.table:
        print("\n".join(details))


if __name__ == "__main__":
    main()
