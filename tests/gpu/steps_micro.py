"""The parts of codecs one by one, and other ways to compute them."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import flex_attention

from speechmill.codecs.nn.cpu_kernels import FFTConv1d
from speechmill.codecs.nn.snake import Snake
from tests.gpu.kit import DEVICE, attempt, emit, sized
from tests.gpu.timing import Call, call_ms, in_new_threads, timed

HALF = sized(torch.bfloat16, torch.float32)
B, T = sized((16, 525), (2, 64))  # rows and frames
C, H, E = sized((1024, 16, 64), (64, 1, 64))  # channels, heads, channels of a head
GROUPS, TAPS = sized((16, 128), (4, 8))  # of the positional convolution
W = C // 2  # channels of convolutions and the LSTM
_FUSED = (SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION)


def micro() -> None:
    with torch.inference_mode():
        measure_attention()
        measure_gated_bias()
        measure_positional_convolution()
        measure_depthwise()
        measure_pointwise()
        measure_lstm()
        measure_new_shapes()


def show(what: str, compute: Call, flop: float = 0.0, byte: float = 0.0) -> None:
    """Time one way to compute a part; `flop` and `byte` are what it computes and moves at least."""
    with attempt(what):
        median, _ = timed(compute, 10, 3)
        emit(
            step="micro",
            what=what,
            us=round(median * 1e6, 1),
            TFLOPs=round(flop / median / 1e12, 1) if flop else None,
            TBs=round(byte / median / 1e12, 2) if byte else None,
        )


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, device=DEVICE, dtype=HALF)


def with_backend(backend: SDPBackend, compute: Call) -> Call:
    def call() -> None:
        with sdpa_kernel(backend):
            compute()

    return call


def measure_attention() -> None:
    """Attention as FocalCodec, HASRD and DualCodec call it: with a dense bias in half precision."""
    q, k, v = (random(B, T, H, E).transpose(1, 2) for _ in range(3))
    flop = 4.0 * B * H * T * T * E
    attend = partial(F.scaled_dot_product_attention, q, k, v)
    for pad in (0, -T % 8):
        biased = partial(attend, attn_mask=random(B, H, T, T + pad)[..., :T])
        show(f"sdpa dense bias, row stride {T + pad}", biased, flop)
        for backend in sized((*_FUSED, SDPBackend.MATH), (SDPBackend.MATH,)):
            label = f"sdpa dense bias, row stride {T + pad}, {backend.name}"
            show(label, with_backend(backend, biased), flop)
    mask = (torch.arange(T, device=DEVICE) < T - 7)[None, None, None].expand(B, 1, 1, T)
    show("sdpa key mask", partial(attend, attn_mask=mask), flop)
    show("sdpa no mask", attend, flop)
    if DEVICE == "cuda":
        for backend in (SDPBackend.FLASH_ATTENTION, *reversed(_FUSED)):
            show(f"sdpa no mask, {backend.name}", with_backend(backend, attend), flop)
        with attempt("varlen"):
            measure_varlen(q, k, v, flop)
        with attempt("cudnn sdpa new shapes"):
            lengths = range(401, 409)
            spent = [round(call_ms(cudnn_attention(length)), 2) for length in lengths]
            emit(step="micro", what="cudnn attention, a new length each time", ms=spent)


def measure_varlen(q: Tensor, k: Tensor, v: Tensor, flop: float) -> None:
    from torch.nn.attention.varlen import varlen_attn  # not in every release of torch

    packed = [x.transpose(1, 2).reshape(B * T, H, E).contiguous() for x in (q, k, v)]
    ends = torch.arange(0, B * T + 1, T, device=DEVICE, dtype=torch.int32)
    show("varlen_attn", lambda: varlen_attn(*packed, ends, ends, T, T), flop)


def measure_gated_bias() -> None:
    """WavLM's bias, gate of the query times a table by distance: computed inside of attention."""
    q, k, v = (random(B, T, H, E).transpose(1, 2) for _ in range(3))
    gate_BHQ, table_HN = random(B, H, T), random(H, 2 * T - 1)
    place_T = torch.arange(T, device=DEVICE)
    distance_QK = place_T - place_T[:, None] + T - 1

    def add_bias(score: Tensor, b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return score + gate_BHQ[b, h, query] * table_HN[h, key - query + T - 1]

    def dense() -> Tensor:
        bias = gate_BHQ[..., None] * table_HN[:, distance_QK]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

    flop = 4.0 * B * H * T * T * E
    show("sdpa, gated bias made and stored", dense, flop)
    with attempt("flex attention"):
        attend = partial(torch.compile(flex_attention), q, k, v, score_mod=add_bias)
        first = call_ms(attend)
        error = (attend() - dense()).abs().max().item()
        emit(step="micro", what="flex attention, first call", ms=round(first), error=error)
        show("flex attention, gated bias", attend, flop)


def cudnn_attention(length: int) -> Call:
    """Return attention of one length in cuDNN, with its inputs already on the device."""
    q, k, v = (random(B, H, length, E) for _ in range(3))
    bias = random(B, H, length, length)
    attend = partial(F.scaled_dot_product_attention, q, k, v, attn_mask=bias)
    return with_backend(SDPBackend.CUDNN_ATTENTION, attend)


def channels_last(x_BTC: Tensor) -> Tensor:
    """Return x as `conv2d` takes it to compute over channels that lie last in memory."""
    return x_BTC.transpose(1, 2)[:, :, None]


def measure_positional_convolution() -> None:
    x = random(B, T + TAPS - 1, C)
    weight = random(C, C // GROUPS, TAPS) * 0.02
    flop = 2.0 * B * T * C * (C // GROUPS) * TAPS
    show(
        "pos conv, conv2d of channels last (as it is)",
        lambda: F.conv2d(channels_last(x), weight[:, :, None], groups=GROUPS),
        flop,
    )
    first = x.transpose(1, 2).contiguous()
    conv1d = partial(F.conv1d, first, weight, groups=GROUPS)
    show("pos conv, conv1d of channels first", conv1d, flop)
    windows_times_matrices = as_windows(x, weight)
    show("pos conv, windows times matrices (bmm)", windows_times_matrices, flop)
    fft_conv = FFTConv1d(weight.float(), GROUPS)
    fft_conv.weight_FGIO = fft_conv.weight_FGIO.to(DEVICE)
    label = "pos conv, spectra in float32 (the CPU's way)"
    show(label, lambda: fft_conv.convolve(x.float()), flop)


def as_windows(x: Tensor, weight: Tensor) -> Call:
    """Return the grouped convolution as one matrix product per group."""
    width = C // GROUPS
    matrices = weight.view(GROUPS, width, width, TAPS).permute(0, 3, 2, 1)
    matrices = matrices.reshape(GROUPS, TAPS * width, width).contiguous()

    def compute() -> Tensor:
        windows_BTGIK = x.view(B, T + TAPS - 1, GROUPS, width).unfold(1, TAPS, 1)
        rows = windows_BTGIK.permute(2, 0, 1, 4, 3).reshape(GROUPS, B * T, TAPS * width)
        return torch.bmm(rows, matrices)

    return compute


def measure_depthwise() -> None:
    x = random(B, T, C)
    first = x.transpose(1, 2).contiguous()
    byte = 2.0 * x.numel() * x.element_size()
    for taps in sized((7, 9, 31), (7,)):
        weight = random(C, 1, taps)
        last = partial(depthwise, x, weight[:, :, None])
        show(f"depthwise {taps}, channels last (as it is)", last, byte=byte)
        conv1d = partial(F.conv1d, first, weight, padding=taps // 2, groups=C)
        show(f"depthwise {taps}, channels first", conv1d, byte=byte)
    taps = sized(512, 16)
    longer, weight = random(B, T + taps - 1, C), random(C, 1, taps)
    causal = partial(F.conv2d, channels_last(longer), weight[:, :, None], groups=C)
    show(f"depthwise {taps}, channels last (causal FocalCodec)", causal)


def depthwise(x_BTC: Tensor, weight: Tensor) -> Tensor:
    """Convolve each channel by itself; the weight is of shape (C, 1, 1, taps)."""
    padding = (0, weight.shape[-1] // 2)
    return F.conv2d(channels_last(x_BTC), weight, padding=padding, groups=len(weight))


def measure_pointwise() -> None:
    """Widths that tensor cores do not like, the casts of autocast, and Snake."""
    x = random(B * T, C)
    for width in (2 * C + 3, 2 * C + 8):
        linear = partial(F.linear, x, random(width, C))
        show(f"linear {C} to {width}", linear, 2.0 * x.numel() * width)
    byte = 2.0 * x.numel() * x.element_size()
    norm = nn.LayerNorm(C, device=DEVICE)
    label = "layer norm as autocast does it: cast, norm, cast"
    show(label, lambda: norm(x.float()).to(HALF), byte=byte)
    half_norm = nn.LayerNorm(C, device=DEVICE, dtype=HALF)
    show("layer norm in half precision", partial(half_norm, x), byte=byte)
    audio = random(4, 32, sized(24_000, 1_000))
    snake = Snake(1, 32, 1, channels_last=False).to(DEVICE)
    byte = 2.0 * audio.numel() * audio.element_size()
    show("snake, eager", partial(snake, audio), byte=byte)


def measure_lstm() -> None:
    lstm = nn.LSTM(W, W, 2, device=DEVICE)
    for rows in sized((16, 64), (2,)):
        x = torch.randn(T, rows, W, device=DEVICE)
        with torch.autocast(DEVICE, torch.bfloat16):
            show(f"LSTM of PURE, {rows} rows, {T} steps, bf16", partial(lstm, x))


def measure_new_shapes() -> None:
    """Convolutions of shapes that cuDNN has not seen: its heuristics cost the host time."""
    strided, audio = random(W, W, 1, 3), random(8, sized(4000, 100), W)
    with attempt("conv new shapes"):
        spent = []
        for i in range(sized(16, 3)):
            audio = random(8 + i % 3, sized(4000, 100) + 7 * i, W)
            convolve = partial(F.conv2d, channels_last(audio), strided, stride=(1, 2))
            spent.append(round(call_ms(convolve), 2))
        emit(step="micro", what="conv 512x512x3, a new shape each time", ms=spent)
    with attempt("new threads"):
        label = "{}: first, again, then in four new threads"
        for what, weight, groups in (
            ("conv 512x512x3", strided, 1),
            ("depthwise 7", random(W, 1, 1, 7), W),
        ):
            convolve = partial(F.conv2d, channels_last(audio), weight, groups=groups)
            emit(step="micro", what=label.format(what), ms=in_this_and_new_threads(convolve))
    with attempt("depthwise new shapes"):
        for taps in (7, 31):
            weight, spent = random(W, 1, 1, taps), []
            for i in range(sized(8, 2)):
                x = random(8 + i % 3, 500 + 7 * i, W)
                spent.append(round(call_ms(partial(depthwise, x, weight)), 2))
            what = f"depthwise {taps}, channels last, a new shape each time"
            emit(step="micro", what=what, ms=spent)
    with attempt("again"):
        convolve = partial(F.conv2d, channels_last(audio), strided, stride=(1, 2))
        median, _ = timed(convolve, 10, 2)
        emit(step="micro", what="the last of them again", ms=round(median * 1e3, 3))


def in_this_and_new_threads(compute: Callable[[], object]) -> list[float]:
    """Return milliseconds of six calls: cuDNN keeps its plans by thread, a shard has its own."""

    def call() -> float:
        with torch.inference_mode():  # holds for one thread
            return round(call_ms(compute), 2)

    return [call(), call(), *in_new_threads(call, sized(4, 1))]
