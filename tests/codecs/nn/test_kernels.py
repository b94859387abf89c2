"""The Triton kernels, checked on the CPU."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conftest import REPOSITORY

HOPPER = 90  # compute capability 9.0
POINTERS = {torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int64: "*i64"}


def test_kernels_compute_what_pytorch_computes() -> None:
    pytest.importorskip("triton")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        *map(str, sorted(Path(__file__).parent.glob("*_checks.py"))),
    ]
    interpreted = {**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=interpreted, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_kernels_compile_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    from triton.runtime.jit import JITFunction

    from speechmill.codecs.nn.kernels.attention import gated_attention
    from speechmill.codecs.nn.kernels.distance_attention import distance_attention
    from speechmill.codecs.nn.kernels.grouped_conv import grouped_conv_gelu
    from speechmill.codecs.nn.kernels.layer_norm import layer_norm
    from speechmill.codecs.nn.kernels.snake import fused_snake, reflected_snake

    compiled: list[str] = []
    monkeypatch.setattr(JITFunction, "__getitem__", lambda kernel, _: compiling(kernel, compiled))
    half, full = torch.bfloat16, torch.float32
    frames_BFD, lengths_B = torch.zeros(2, 300, 1024, dtype=half), torch.ones(2, dtype=torch.int64)
    qkv = frames_BFD.view(2, 300, 16, 64).transpose(1, 2)
    gate = (frames_BFD[0, :8, :64].contiguous(), frames_BFD[0, 0, :8], torch.zeros(16))
    one_D, wave_BCT = torch.ones(1024), torch.zeros(2, 64, 5000, dtype=half)

    layer_norm(frames_BFD.float(), one_D, one_D, 1e-5, half, True)
    gated_attention(
        qkv, qkv, qkv, lengths_B[:, None], 1 << 30, frames_BFD, *gate, torch.zeros(16, 599)
    )
    scores_BSHP = torch.zeros(2, 300, 16, 73, dtype=half)
    distance_attention(frames_BFD, frames_BFD, frames_BFD, scores_BSHP, 64, lengths_B)
    weight_OIK = torch.zeros(1024, 64, 128, dtype=half)
    grouped_conv_gelu(frames_BFD, weight_OIK, one_D.to(half))
    fused_snake(wave_BCT, (one_D[:64], one_D[:64]), 1e-9, lengths_B, False)
    fused_snake(frames_BFD.to(full), (one_D, one_D), 1e-9, None, True)
    reflected_snake(wave_BCT, 3, 3, 1, lengths_B)
    expected = ["_layer_norm", "_attention", "_attention", "_grouped_conv", *3 * ["_snake"]]
    assert compiled == expected


def compiling(kernel: Any, compiled: list[str]) -> Callable[..., None]:
    """Return what compiles a kernel for the types of its arguments, instead of launching it."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def launch(*arguments: Any, **options: Any) -> None:
        pairs = list(zip(kernel.params, arguments, strict=True))
        signature = {p.name: "constexpr" if p.is_constexpr else type_of(a) for p, a in pairs}
        constants = {p.name: a for p, a in pairs if p.is_constexpr}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
        made = triton.compile(source, target=GPUTarget("cuda", HOPPER, 32), options=options)
        assert made.asm["cubin"]
        compiled.append(kernel.__name__)

    return launch


def type_of(argument: object) -> str:
    if isinstance(argument, Tensor):
        return POINTERS[argument.dtype]
    return "fp32" if isinstance(argument, float) else "i32"
