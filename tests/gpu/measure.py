"""Speechmill on a GPU: what has never been run there, measured by priority within a budget of seconds.

Every step is a process of its own with a limit of its own; each result is a line of JSON in $OUT/results.jsonl, all that
is printed goes to $OUT/measure.log, profiles to $OUT/profiles.txt. `--cpu` is a dry run: tiny networks, the masked way.
"""

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from contextlib import contextmanager
from functools import cache
from pathlib import Path

OUT = Path(os.environ.get("OUT", Path(tempfile.gettempdir()) / "measured"))
ROOT = Path.cwd()
# name, seconds at most, in order of what we would miss most
STEPS = (
    ("env", 30),
    ("codec:focalcodec-50hz", 60),
    ("codec:simwhisper-16k", 50),
    ("codec:dualcodec-12hz", 75),
    ("feed", 125),
    ("micro", 45),
    ("pytest", 75),
    ("codec:pure-4k", 40),
    ("codec:hasrd-2k", 60),
    ("train", 50),
    ("codec:focalcodec-50hz-4k-causal", 40),
    ("compile:focalcodec-50hz", 100),
    ("compile:simwhisper-16k", 80),
    ("raytrain", 60),
    ("tests_compile", 120),
)
TINY_DUAL = {
    "dualcodec": {
        "encoder_dim": 4,
        "encoder_rates": [4, 5, 6, 8, 2],
        "decoder_rates": [2, 8, 6, 5, 4],
        "decoder_dim": 32,
        "latent_dim": 32,
        "n_codebooks": 7,
        "codebook_size": 64,
        "semantic_codebook_size": 64,
        "semantic_downsample_factor": 4,
        "convnext_dim": 16,
        "convnext_intermediate_dim": 32,
        "semantic_in_dim": 32,
        "semantic_out_dim": 32,
    },
    "w2vbert": {
        "hidden_size": 32,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "num_hidden_layers": 24,
    },
}
TINY_SSL = {
    "conv_dim": [16] * 7,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
}
CPU = "--cpu" in sys.argv
DEVICE = "cpu" if CPU else "cuda"


def emit(**facts):
    line = json.dumps(
        {"t": round(time.time() - float(os.environ.get("START", time.time())), 1), **facts}
    )
    with (OUT / "results.jsonl").open("a") as file:
        file.write(line + "\n")
    print(line, flush=True)


@contextmanager
def attempt(what, **facts):
    """One failure does not stop the others."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        emit(
            failed=what,
            error=type(error).__name__,
            message=str(error)[:600],
            where=traceback.format_exc()[-900:],
            **facts,
        )
        if DEVICE == "cuda":
            import torch

            gc.collect()
            with attempt_silently():
                torch.cuda.empty_cache()


@contextmanager
def attempt_silently():
    try:
        yield
    except Exception:
        pass


def left():
    return float(os.environ["STEP_END"]) - time.time()


# ---------------------------------------------------------------- codecs at full size


@cache
def _weights(module, name, *key):
    """Random weights are drawn once in a process, on the CPU."""
    raise AssertionError


def patch_random_weights():
    import copy
    import importlib

    for module, names in {
        "speechmill.codecs.focalcodec.weights": ("build_untrained",),
        "speechmill.codecs.simwhisper.weights": ("build_untrained",),
        "speechmill.codecs.pure.weights": ("build_untrained",),
        "speechmill.codecs.hasrd.untrained": ("random_network", "random_ssl"),
        "speechmill.codecs.dualcodec.untrained": ("random_network", "random_w2vbert"),
    }.items():
        found = importlib.import_module(module)
        for name in names:
            build, made = getattr(found, name), {}

            def cached(sizes, seed, build=build, made=made):
                if "x" not in made:
                    made["x"] = build(sizes, seed)
                return copy.deepcopy(made["x"])

            setattr(found, name, cached)


def arguments_of(name):
    """What `load_codec` takes: the full size, or in a dry run a tiny network of the same depth."""
    if not CPU:
        return {"name": name, **({} if name == "pure-16k-small" else {"checkpoint": "untrained"})}
    family = name.split("-")[0]
    if family == "focalcodec":
        from tests.codecs.focalcodec.small import CONFIGS

        config = CONFIGS["causal 25hz" if "causal" in name else "25hz"]
        return {"name": "focalcodec", "checkpoint": "untrained", "config": config}
    if family == "simwhisper":
        data = ROOT / "tests/data/simwhisper"
        return {
            "name": "simwhisper",
            "config": data / "config.json",
            "checkpoint": data / "state_dict.safetensors",
        }
    if family == "dualcodec":
        return {"name": "dualcodec", "checkpoint": "untrained", "config": TINY_DUAL}
    if family == "hasrd":
        return {
            "name": "hasrd",
            "checkpoint": "untrained",
            "config": {"ssl": TINY_SSL, "dim": 16, "decoder_dim": 32},
        }
    if name == "pure-16k-small":
        return {"name": name}
    config = {"channels": [4, 8, 8, 16, 16], "dim": 16, "codebook_size": 64}
    return {"name": "pure", "checkpoint": "untrained", "config": config}


def load(name, precision, **more):
    from dataclasses import replace

    from speechmill.codecs import load_codec

    arguments = arguments_of(name)
    if CPU:
        import speechmill.codecs.batch_runner as rows

        rows.BatchRunner.packs_weights = property(lambda self: False)
    codec = load_codec(**{**arguments, "precision": precision, "device": DEVICE, **more})
    if CPU:
        codec._runner = replace(codec._runner, row_by_row=False)
    return codec


def batch_of(rate, seconds, device=None, seed=0):
    """Noise with an envelope of syllables: speed does not depend on it, attention and masks do on the lengths."""
    import torch

    lengths = [int(s * rate) for s in seconds]
    generator = torch.Generator(device or DEVICE).manual_seed(seed)
    audio_BT = 0.1 * torch.randn(
        len(lengths), max(lengths), generator=generator, device=device or DEVICE
    )
    time_T = torch.arange(max(lengths), device=audio_BT.device) / rate
    audio_BT *= torch.sin(2 * torch.pi * 2.5 * time_T).clamp(min=0.05)
    num_B = torch.tensor(lengths)
    for row, n in zip(audio_BT, lengths, strict=True):
        row[n:] = 0
    return audio_BT, num_B


def lengths_of(padded, longest=10.5, spread=0.15):
    """A batch as the batcher cuts it: so many rows of nearly the same length."""
    rows = max(1, int(padded / longest))
    return [longest * (1 - spread * (rows - 1 - i) / max(1, rows - 1)) for i in range(rows)]


def sync():
    if DEVICE == "cuda":
        import torch

        torch.cuda.synchronize()


def timed(compute, rounds=5, warm=2):
    """Median and least wall seconds of a call, the device included."""
    for _ in range(warm):
        compute()
    sync()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        compute()
        sync()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds), min(seconds)


def flops(compute):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        compute()
    return counter.get_total_flops()


def peak_memory():
    import torch

    if DEVICE != "cuda":
        return 0.0
    value = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return round(value, 2)


def matmul_peak(precision):
    import torch

    from speechmill.codecs.precision import AUTOCAST, autocast

    size = 512 if CPU else 8192
    x, y = torch.randn(
        2, size, size, device=DEVICE, dtype=AUTOCAST.get(precision, torch.float32)
    ).unbind()
    with (
        torch.inference_mode(),
        autocast(precision if not (CPU and precision == "tf32") else "fp32", torch.device(DEVICE)),
    ):
        median, _ = timed(lambda: x @ y, 5, 2)
    return 2 * size**3 / median / 1e12


def kernels_of(compute, label, top=30):
    """Kernels of one call and their summed time; the table of the longest goes to profiles.txt."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if DEVICE == "cuda" else [])
    compute()
    sync()
    with profile(activities=activities) as found:
        compute()
        sync()
    events = found.events()
    on_device = [e for e in events if getattr(e.device_type, "name", "") == "CUDA"]
    total = sum(
        getattr(e, "device_time", 0) or getattr(e, "cuda_time", 0) or e.time_range.elapsed_us()
        for e in on_device
    )
    names = [e.name for e in on_device]
    copies = sum("Memcpy" in n or "Memset" in n for n in names)
    syncs = sum(
        e.name in ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
        for e in events
    )
    sort = "self_cuda_time_total" if DEVICE == "cuda" else "self_cpu_time_total"
    try:
        table = found.key_averages().table(sort_by=sort, row_limit=top, max_name_column_width=90)
    except Exception:
        table = found.key_averages().table(
            sort_by="self_device_time_total", row_limit=top, max_name_column_width=90
        )
    kernels = {}
    for e in on_device:
        spent = kernels.setdefault(e.name, [0.0, 0])
        spent[0] += e.time_range.elapsed_us()
        spent[1] += 1
    with (OUT / "profiles.txt").open("a") as file:
        file.write(
            f"\n\n######## {label}\n{len(names)} device events, {total / 1e3:.2f} ms, {copies} copies, {syncs} synchronisations\n"
        )
        for name, (us, count) in sorted(kernels.items(), key=lambda kv: -kv[1][0])[:top]:
            file.write(
                f"{us / 1e3:9.3f} ms {100 * us / max(total, 1e-9):5.1f} % {count:5d} x  {name[:150]}\n"
            )
        file.write(table[:20000])
    return {
        "kernels": len(names),
        "gpu_ms": round(total / 1e3, 3),
        "copies": copies,
        "syncs": syncs,
    }


def network_call(codec, audio_BT, num_B):
    """The part of encode that is all on the device: what a CUDA graph can hold."""
    import torch

    name = type(codec).__name__
    lengths = num_B.tolist()
    lengths_B = torch.tensor(lengths, device=audio_BT.device)
    if name == "SimWhisperCodec":
        frames = codec.info.num_frames(max(lengths))
        return lambda: codec.network.encode(audio_BT, frames, lengths_B)
    frames_B = torch.tensor([codec.info.num_frames(n) for n in lengths], device=audio_BT.device)
    if name == "DualCodec":
        return lambda: codec._code(audio_BT, lengths_B, frames_B)
    if name == "HasrdCodec":
        from speechmill.codecs.hasrd.codec import _resized

        filled = [max(n, codec.info.num_frames(n) * codec.info.hop_length) for n in lengths]
        filled_B = torch.tensor(filled, device=audio_BT.device)
        padded_BT = _resized(audio_BT, max(filled))
        return lambda: codec._code(padded_BT, lengths_B, filled_B, frames_B, max(filled))
    if name == "PureCodec":
        return lambda: codec._encode(audio_BT, lengths_B)
    return lambda: codec.network.encode(audio_BT, lengths_B)


def graphed(codec, audio_BT, num_B, precision):
    """Capture the network; gives (replay, codes)."""
    import torch

    from speechmill.codecs.precision import autocast

    call = network_call(codec, audio_BT, num_B)
    with torch.inference_mode(), autocast(precision, torch.device(DEVICE)):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            codes = call()
    return graph, codes


def step_codec(name):
    import threading

    patch_random_weights()
    rate = 16000
    precisions = ("bf16", "fp32") if CPU else ("bf16", "tf32", "fp16", "fp32")
    small = CPU
    peaks = {}
    for precision in precisions:
        with attempt("speed", codec=name, precision=precision):
            started = time.perf_counter()
            codec = load(name, precision)
            loading = time.perf_counter() - started
            rate = codec.info.sample_rate
            seconds = [0.9, 1.1, 1.3] if small else lengths_of(160.0)
            audio = batch_of(rate, seconds)
            first = time.perf_counter()
            codec.encode(*audio)
            sync()
            first = time.perf_counter() - first
            peak_memory()
            median, least = timed(lambda: codec.encode(*audio).cpu(), 5, 1)
            facts = {"first_ms": round(first * 1e3, 1), "load_s": round(loading, 1)}
            if precision == "bf16":
                facts |= kernels_of(
                    lambda: codec.encode(*audio), f"{name} {precision} {sum(seconds):.0f} s"
                )
            with attempt("flops", codec=name):
                count = flops(lambda: codec.encode(*audio))
                peaks[precision] = peaks.get(precision) or matmul_peak(precision)
                facts |= {
                    "TFLOP": round(count / 1e12, 3),
                    "TFLOPs": round(count / median / 1e12, 1),
                    "matmul_peak": round(peaks[precision], 1),
                    "share": round(count / median / 1e12 / peaks[precision], 3),
                }
            emit(
                step="speed",
                codec=name,
                precision=precision,
                audio_s=round(sum(seconds), 1),
                rows=len(seconds),
                ms=round(median * 1e3, 2),
                least_ms=round(least * 1e3, 2),
                x_real_time=round(sum(seconds) / median),
                peak_GB=peak_memory(),
                **facts,
            )
            if precision == "bf16":
                _bf16_more(name, codec, rate, seconds, audio, small, threading)
            del codec
            gc.collect()
        if left() < 12:
            emit(step="speed", codec=name, skipped="no time left for further precisions")
            break
    if left() > 10:
        with attempt("mismatch", codec=name):
            mismatch(name)


def _bf16_more(name, codec, rate, seconds, audio, small, threading):
    import torch

    with attempt(
        "new shapes", codec=name
    ):  # what every batch of a run pays: no two are of one shape
        scale = 0.1 if small else 1.0
        # every (rows, longest) is new, and made before the clock
        batches = [
            batch_of(rate, [s * scale for s in lengths_of(160.0, 6.0 + 0.571 * i)])
            for i in range(3 if small else 10)
        ]
        sync()
        passes = []
        for _ in range(2):
            spent = []
            for one in batches:
                started = time.perf_counter()
                codec.encode(*one)
                sync()
                spent.append(time.perf_counter() - started)
            passes.append(spent)
        total = sum(float(n.sum()) for _, n in batches) / rate
        emit(
            step="new shapes",
            codec=name,
            first_ms=[round(s * 1e3, 1) for s in passes[0]],
            again_ms=[round(s * 1e3, 1) for s in passes[1]],
            x_real_time_first=round(total / sum(passes[0])),
            x_real_time_again=round(total / sum(passes[1])),
        )
        del batches
    with attempt("new thread", codec=name):  # as each shard has it: plans are kept by thread
        spent = []

        def once():
            sync()
            started = time.perf_counter()
            codec.encode(*audio)
            sync()
            spent.append(round((time.perf_counter() - started) * 1e3, 1))

        once()
        for _ in range(3):
            thread = threading.Thread(target=once)
            thread.start()
            thread.join()
        emit(step="new thread", codec=name, same_shape_ms=spent)
    with attempt("graph", codec=name):
        if DEVICE == "cuda":
            from speechmill.codecs.precision import autocast

            started = time.perf_counter()
            graph, codes = graphed(codec, *audio, "bf16")
            sync()
            capture = time.perf_counter() - started
            median, least = timed(graph.replay, 8, 2)
            call = network_call(codec, *audio)
            with torch.inference_mode(), autocast("bf16", torch.device(DEVICE)):
                eager, _ = timed(call, 5, 1)
                same = bool((call() == codes).all())
            emit(
                step="graph",
                codec=name,
                capture_s=round(capture, 2),
                ms=round(median * 1e3, 2),
                eager_network_ms=round(eager * 1e3, 2),
                x_real_time=round(sum(seconds) / median),
                same_codes=same,
                peak_GB=peak_memory(),
            )
            del graph, codes
        else:
            from speechmill.codecs.precision import autocast

            call = network_call(codec, *audio)
            with torch.inference_mode(), autocast("bf16", torch.device(DEVICE)):
                same = bool((call() == codec.encode(*audio)[..., : call().shape[-1]]).all())
            emit(step="graph", codec=name, skipped="cpu", same_codes=same)
    gc.collect()
    with attempt("busy", codec=name):  # other Python threads of the actor: Ray, Parquet, padding
        stop, results = threading.Event(), {}

        def spin():
            x = 0
            while not stop.is_set():
                for i in range(10_000):
                    x += i

        for interval in (5e-3, 1e-4):
            sys.setswitchinterval(interval)
            for count in (1, 3):
                stop.clear()
                threads = [threading.Thread(target=spin, daemon=True) for _ in range(count)]
                [t.start() for t in threads]
                median, _ = timed(lambda: codec.encode(*audio), 4, 1)
                stop.set()
                [t.join() for t in threads]
                results[f"{count} busy, switch {interval * 1e3:g} ms"] = round(median * 1e3, 1)
        sys.setswitchinterval(5e-3)
        emit(step="busy", codec=name, ms=results)
    with attempt("batch size", codec=name):
        for padded in () if small else (40.0, 640.0, 1280.0):
            peak_memory()
            more = lengths_of(padded)
            one = batch_of(rate, more)
            median, _ = timed(lambda: codec.encode(*one), 3, 1)
            emit(
                step="batch size",
                codec=name,
                padded_s=padded,
                rows=len(more),
                ms=round(median * 1e3, 1),
                x_real_time=round(sum(more) / median),
                peak_GB=peak_memory(),
            )
            del one
        for longest in () if small else (2.0, 20.0, 75.0):
            more = lengths_of(160.0, longest)
            one = batch_of(rate, more)
            median, _ = timed(lambda: codec.encode(*one), 3, 1)
            emit(
                step="clip length",
                codec=name,
                longest_s=longest,
                rows=len(more),
                ms=round(median * 1e3, 1),
                x_real_time=round(sum(more) / median),
                peak_GB=peak_memory(),
            )
            del one
    gc.collect()


def real_clips(rate, count, longest):
    import numpy as np
    import soundfile
    import soxr
    import torch

    clips = []
    for path in sorted((ROOT / "samples").rglob("*")):
        if path.suffix in (".flac", ".wav", ".ogg", ".mp3", ".opus") and len(clips) < count:
            audio, found = soundfile.read(path, always_2d=True, dtype="float32")
            one = soxr.resample(audio[:, 0], found, rate)[: int(longest * rate)]
            if len(one) > rate:
                clips.append(torch.from_numpy(np.ascontiguousarray(one)))
    return clips


def mismatch(name):
    import torch

    clips = None

    def alone(codec):
        rows = [
            codec.encode(clip[None].to(DEVICE), torch.tensor([len(clip)]))[0].cpu()
            for clip in clips
        ]
        return torch.cat(rows, 1)

    def together(codec, order=None):
        order = list(range(len(clips))) if order is None else order
        rows = {}
        for start in range(0, len(order), 8):
            part = order[start : start + 8]
            num = torch.tensor([len(clips[i]) for i in part])
            audio = torch.zeros(len(part), int(num.max()), device=DEVICE)
            for row, i in zip(audio, part, strict=True):
                row[: len(clips[i])] = clips[i].to(DEVICE)
            codes = codec.encode(audio, num).cpu()
            rows |= {
                i: codes[k, :, : codec.info.num_frames(len(clips[i]))] for k, i in enumerate(part)
            }
        return torch.cat([rows[i] for i in range(len(clips))], 1)

    def share(a, b):
        return [round(100 * v, 3) for v in (a != b).double().mean(1).tolist()]

    exact = load(name, "fp32")
    clips = real_clips(exact.info.sample_rate, 3 if CPU else 16, 1.5 if CPU else 8.0)
    truth = alone(exact)
    table = {"frames": truth.shape[1], "fp32 batch": share(together(exact), truth)}
    emit(
        step="mismatch",
        codec=name,
        unit="% by codebook, against fp32 alone on this device",
        **table,
    )
    with attempt("cpu", codec=name):
        if DEVICE == "cuda":
            from speechmill.codecs import load_codec

            torch.set_num_threads(os.cpu_count() or 1)
            reference = load_codec(**{**arguments_of(name), "precision": "fp32", "device": "cpu"})
            few = clips[:3]
            cpu = torch.cat([reference.encode(c[None], torch.tensor([len(c)]))[0] for c in few], 1)
            gpu = torch.cat(
                [exact.encode(c[None].cuda(), torch.tensor([len(c)]))[0].cpu() for c in few], 1
            )
            emit(
                step="mismatch",
                codec=name,
                what="fp32 alone, GPU against CPU",
                frames=cpu.shape[1],
                percent=share(gpu, cpu),
            )
            del reference
    del exact
    gc.collect()
    for precision in ("bf16",) if CPU else ("bf16", "tf32", "fp16"):
        if left() < 4:
            break
        with attempt("mismatch", codec=name, precision=precision):
            codec = load(name, precision)
            single, batch = alone(codec), together(codec)
            other = together(codec, sorted(range(len(clips)), key=lambda i: (i * 7) % len(clips)))
            emit(
                step="mismatch",
                codec=name,
                precision=precision,
                alone=share(single, truth),
                batch=share(batch, truth),
                batch_against_alone=share(batch, single),
                batch_against_other_batches=share(batch, other),
                twice_the_same=share(together(codec), batch),
            )
            del codec
            gc.collect()


# ---------------------------------------------------------------- parts, and what could replace them


def step_micro(_):
    import torch
    from torch.nn import functional as F

    half = torch.float32 if CPU else torch.bfloat16
    B, T, scale = (2, 64, 16) if CPU else (16, 525, 1)

    def show(what, compute, flop=0.0, byte=0.0, **facts):
        with attempt(what):
            median, least = timed(compute, 10, 3)
            emit(
                step="micro",
                what=what,
                us=round(median * 1e6, 1),
                TFLOPs=round(flop / median / 1e12, 1) if flop else None,
                TBs=round(byte / median / 1e12, 2) if byte else None,
                **facts,
            )

    with torch.inference_mode():
        # attention as FocalCodec, HASRD and DualCodec ask for it: a dense bias in half precision
        H, E = 16 // scale, 64
        q, k, v = (
            torch.randn(B, T, H, E, device=DEVICE, dtype=half).transpose(1, 2) for _ in range(3)
        )
        flop = 4.0 * B * H * T * T * E
        from torch.nn.attention import SDPBackend, sdpa_kernel

        for pad in (0, -T % 8):
            bias = torch.randn(B, H, T, T + pad, device=DEVICE, dtype=half)[..., :T]
            show(
                f"sdpa dense bias, row stride {T + pad}",
                lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=bias),
                flop,
            )
            for backend in (
                SDPBackend.EFFICIENT_ATTENTION,
                SDPBackend.CUDNN_ATTENTION,
                SDPBackend.MATH,
            ):

                def forced():
                    with sdpa_kernel(backend):
                        F.scaled_dot_product_attention(q, k, v, attn_mask=bias)

                if DEVICE == "cuda":
                    show(f"sdpa dense bias, row stride {T + pad}, {backend.name}", forced, flop)
        mask = (torch.arange(T, device=DEVICE) < T - 7)[None, None, None].expand(B, 1, 1, T)
        show("sdpa key mask", lambda: F.scaled_dot_product_attention(q, k, v, attn_mask=mask), flop)
        show("sdpa no mask", lambda: F.scaled_dot_product_attention(q, k, v), flop)
        if DEVICE == "cuda":
            for backend in (
                SDPBackend.FLASH_ATTENTION,
                SDPBackend.CUDNN_ATTENTION,
                SDPBackend.EFFICIENT_ATTENTION,
            ):

                def forced():
                    with sdpa_kernel(backend):
                        F.scaled_dot_product_attention(q, k, v)

                show(f"sdpa no mask, {backend.name}", forced, flop)
            with attempt("varlen"):
                from torch.nn.attention.varlen import varlen_attn

                packed = [t.transpose(1, 2).reshape(B * T, H, E).contiguous() for t in (q, k, v)]
                ends = torch.arange(0, B * T + 1, T, device=DEVICE, dtype=torch.int32)
                show("varlen_attn", lambda: varlen_attn(*packed, ends, ends, T, T), flop)
            with attempt("cudnn sdpa new shapes"):
                spent = []
                for t in range(401, 409):
                    a, b, c = (torch.randn(B, H, t, E, device=DEVICE, dtype=half) for _ in range(3))
                    m = torch.randn(B, H, t, t, device=DEVICE, dtype=half)
                    sync()
                    started = time.perf_counter()
                    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                        F.scaled_dot_product_attention(a, b, c, attn_mask=m)
                    sync()
                    spent.append(round((time.perf_counter() - started) * 1e3, 2))
                emit(step="micro", what="cudnn attention, a new length each time", ms=spent)
        # the positional convolution: 128 taps, 16 groups
        C, G, K = 1024 // scale, 16 // min(scale, 4), 128 if not CPU else 8
        x = torch.randn(B, T + K - 1, C, device=DEVICE, dtype=half)
        w = torch.randn(C, C // G, K, device=DEVICE, dtype=half) * 0.02
        flop = 2.0 * B * T * C * (C // G) * K
        show(
            "pos conv, conv2d of channels last (as it is)",
            lambda: F.conv2d(x.transpose(1, 2)[:, :, None], w[:, :, None], groups=G),
            flop,
        )
        xc = x.transpose(1, 2).contiguous()
        show("pos conv, conv1d of channels first", lambda: F.conv1d(xc, w, groups=G), flop)
        wg = (
            w.view(G, C // G, C // G, K)
            .permute(0, 3, 2, 1)
            .reshape(G, K * (C // G), C // G)
            .contiguous()
        )

        def unfolded():
            u = x.view(B, T + K - 1, G, C // G).unfold(1, K, 1)  # B T G I K
            return torch.bmm(u.permute(2, 0, 1, 4, 3).reshape(G, B * T, K * (C // G)), wg)

        show("pos conv, windows times matrices (bmm)", unfolded, flop)
        from speechmill.codecs.nn.spectral import Spectrum

        spectrum = Spectrum(w.float(), G)
        if DEVICE == "cuda":
            spectrum.weight_FGIO = spectrum.weight_FGIO.cuda()
        show(
            "pos conv, spectra in float32 (the CPU's way)",
            lambda: spectrum.convolve(x.float()),
            flop,
        )
        # depthwise convolutions
        for kernel in (7, 9, 31) if not CPU else (7,):
            d = torch.randn(C, 1, kernel, device=DEVICE, dtype=half)
            y = torch.randn(B, T, C, device=DEVICE, dtype=half)
            yc = y.transpose(1, 2).contiguous()
            byte = 2.0 * y.numel() * y.element_size()
            show(
                f"depthwise {kernel}, channels last (as it is)",
                lambda: F.conv2d(
                    y.transpose(1, 2)[:, :, None], d[:, :, None], padding=(0, kernel // 2), groups=C
                ),
                byte=byte,
            )
            show(
                f"depthwise {kernel}, channels first",
                lambda: F.conv1d(yc, d, padding=kernel // 2, groups=C),
                byte=byte,
            )
        if not CPU:
            y = torch.randn(B, T + 511, C, device=DEVICE, dtype=half)
            d = torch.randn(C, 1, 512, device=DEVICE, dtype=half)
            show(
                "depthwise 512, channels last (causal FocalCodec)",
                lambda: F.conv2d(y.transpose(1, 2)[:, :, None], d[:, :, None], groups=C),
            )
        # widths that tensor cores do not like, casts, Snake, LSTM
        z = torch.randn(B * T, C, device=DEVICE, dtype=half)
        for width in (2 * C + 3, 2 * C + 8):
            m = torch.randn(width, C, device=DEVICE, dtype=half)
            show(f"linear {C} to {width}", lambda: F.linear(z, m), 2.0 * z.numel() * width)
        norm = torch.nn.LayerNorm(C, device=DEVICE)

        def as_autocast():
            return norm(z.float()).to(half)

        show(
            "layer norm as autocast does it: cast, norm, cast",
            as_autocast,
            byte=2.0 * z.numel() * z.element_size(),
        )
        normh = torch.nn.LayerNorm(C, device=DEVICE, dtype=half)
        show(
            "layer norm in half precision",
            lambda: normh(z),
            byte=2.0 * z.numel() * z.element_size(),
        )
        from speechmill.codecs.nn.snake import Snake

        s = torch.randn(4, 32, 24_000 if not CPU else 1000, device=DEVICE, dtype=half)
        snake = Snake(1, 32, 1, channels_last=False).to(DEVICE)
        show("snake, eager", lambda: snake(s), byte=2.0 * s.numel() * s.element_size())
        lstm = torch.nn.LSTM(512 // scale, 512 // scale, 2, device=DEVICE)
        for rows in (16, 64) if not CPU else (2,):
            h = torch.randn(T, rows, 512 // scale, device=DEVICE)
            with torch.autocast(DEVICE, torch.bfloat16):
                show(f"LSTM of PURE, {rows} rows, {T} steps, bf16", lambda: lstm(h))
        # a strided convolution that has not seen its shape: what cuDNN's heuristics cost the host
        with attempt("conv new shapes"):
            w3 = torch.randn(512 // scale, 512 // scale, 1, 3, device=DEVICE, dtype=half)
            spent = []
            for t in range(16 if not CPU else 3):
                a = torch.randn(
                    8 + t % 3,
                    (4000 if not CPU else 100) + 7 * t,
                    512 // scale,
                    device=DEVICE,
                    dtype=half,
                )
                sync()
                started = time.perf_counter()
                F.conv2d(a.transpose(1, 2)[:, :, None], w3, stride=(1, 2))
                sync()
                spent.append(round((time.perf_counter() - started) * 1e3, 2))
            emit(step="micro", what="conv 512x512x3, a new shape each time", ms=spent)
            with attempt(
                "new threads"
            ):  # cuDNN's plans are kept by thread, and every shard has a thread of its own
                import threading

                for what, weight, groups in (
                    ("conv 512x512x3", w3, 1),
                    (
                        "depthwise 7",
                        torch.randn(512 // scale, 1, 1, 7, device=DEVICE, dtype=half),
                        512 // scale,
                    ),
                ):
                    cold = []

                    def once(weight=weight, groups=groups, cold=cold):
                        with torch.inference_mode():
                            sync()
                            started = time.perf_counter()
                            F.conv2d(a.transpose(1, 2)[:, :, None], weight, groups=groups)
                            sync()
                            cold.append(round((time.perf_counter() - started) * 1e3, 2))

                    once(), once()
                    for _ in range(4):
                        thread = threading.Thread(target=once)
                        thread.start()
                        thread.join()
                    emit(
                        step="micro",
                        what=f"{what}: first, again, then in four new threads",
                        ms=cold,
                    )
            with attempt("depthwise new shapes"):
                for kernel in (7, 31):
                    wd = torch.randn(512 // scale, 1, 1, kernel, device=DEVICE, dtype=half)
                    spent = []
                    for t in range(8 if not CPU else 2):
                        b = torch.randn(
                            8 + t % 3, 500 + 7 * t, 512 // scale, device=DEVICE, dtype=half
                        )
                        sync()
                        started = time.perf_counter()
                        F.conv2d(
                            b.transpose(1, 2)[:, :, None],
                            wd,
                            padding=(0, kernel // 2),
                            groups=512 // scale,
                        )
                        sync()
                        spent.append(round((time.perf_counter() - started) * 1e3, 2))
                    emit(
                        step="micro",
                        what=f"depthwise {kernel}, channels last, a new shape each time",
                        ms=spent,
                    )
            with attempt("again"):
                median, _ = timed(
                    lambda: F.conv2d(a.transpose(1, 2)[:, :, None], w3, stride=(1, 2)), 10, 2
                )
                emit(step="micro", what="the last of them again", ms=round(median * 1e3, 3))


def step_env(_):
    import torch

    facts = {"torch": torch.__version__, "python": sys.version.split()[0], "cpus": os.cpu_count()}
    for command in (
        "nvidia-smi --query-gpu=name,memory.total,driver_version,clocks.sm,temperature.gpu --format=csv,noheader",
        "grep -m1 'model name' /proc/cpuinfo",
        "free -g | sed -n 2p",
        "df -h /dev/shm | tail -1",
        "uname -r",
    ):
        done = subprocess.run(command, shell=True, capture_output=True, text=True)
        facts[command.split()[0] + (" shm" if "shm" in command else "")] = (
            done.stdout or done.stderr
        ).strip()[:200]
    if DEVICE == "cuda":
        facts |= {
            "cudnn": torch.backends.cudnn.version(),
            "capability": torch.cuda.get_device_capability(),
            "precision defaults": [
                torch.backends.cuda.matmul.fp32_precision,
                torch.backends.cudnn.conv.fp32_precision,
            ],
        }
    emit(step="env", **facts)
    for precision in ("bf16", "fp32") if CPU else ("bf16", "fp16", "tf32", "fp32"):
        with attempt("peak", precision=precision):
            emit(step="matmul peak", precision=precision, TFLOPs=round(matmul_peak(precision), 1))
    if DEVICE == "cuda":
        with attempt("copies"):
            a, b = torch.empty(2, 2**30, dtype=torch.float32, device="cuda").unbind()
            median, _ = timed(lambda: b.copy_(a), 5, 2)
            pinned = torch.empty(2**28, dtype=torch.int16).pin_memory()
            there = torch.empty(2**28, dtype=torch.int16, device="cuda")
            h2d, _ = timed(lambda: there.copy_(pinned, non_blocking=True), 5, 2)
            pageable = torch.empty(2**26, dtype=torch.int16)
            small = torch.empty(2**26, dtype=torch.int16, device="cuda")
            slow, _ = timed(lambda: small.copy_(pageable), 5, 2)
            pin, _ = timed(lambda: pageable[: 160 * 16000].pin_memory(), 5, 2)
            emit(
                step="copies",
                device_TBs=round(2 * a.numel() * 4 / median / 1e12, 2),
                h2d_pinned_GBs=round(2**29 / h2d / 1e9, 1),
                h2d_pageable_GBs=round(2**27 / slow / 1e9, 1),
                pin_160s_ms=round(pin * 1e3, 2),
            )
            one = torch.zeros(1, device="cuda")
            many, _ = timed(lambda: [one.add_(1) for _ in range(1000)], 5, 1)
            emit(step="launch", us_per_eager_op=round(many * 1e3, 2))
    if DEVICE == "cuda":
        with attempt("prefetch"):
            import numpy as np

            from speechmill.pipeline.tokenize.batching import Batch
            from speechmill.pipeline.tokenize.device import DevicePrefetcher

            prefetcher = DevicePrefetcher("cuda")
            for seconds in (2.0, 10.0):
                num = np.full(int(160 / seconds), int(seconds * 16000))
                batch = Batch(np.zeros(int(num.sum()), np.int16), num, num, num, None)

                def ready():
                    prefetcher._copy(batch).audio()

                median, _ = timed(ready, 10, 2)
                emit(step="prefetch", rows=len(num), ms_per_160_s=round(median * 1e3, 2))


# ---------------------------------------------------------------- the pipeline


def make_tars(folder, minutes, tars, copies):
    """FLAC tars of the sample speech, cut to clips of 3 to 16 s; copies count as further shards."""
    import shutil
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(max(1, (os.cpu_count() or 2))) as pool:
        seconds = sum(pool.map(_one_tar, [(str(folder), n, minutes * 60) for n in range(tars)]))
    for path in sorted(folder.glob("feed-*.tar")):
        for copy in range(1, copies):
            shutil.copy(path, folder / f"{path.stem}-copy{copy}.tar")
    return seconds * copies


def _one_tar(arguments):
    import io
    import tarfile

    import numpy as np
    import soundfile
    import soxr

    folder, number, wanted = arguments
    random = np.random.default_rng(number)
    speech = np.concatenate(
        [
            soxr.resample(
                soundfile.read(p, always_2d=True)[0][:, 0], soundfile.info(p).samplerate, 16000
            )
            for p in sorted((ROOT / "samples").rglob("*"))
            if p.suffix in (".flac", ".wav", ".ogg", ".mp3", ".opus")
        ]
    )
    total, count = 0.0, 0
    with tarfile.open(Path(folder) / f"feed-{number:04d}.tar", "w") as tar:
        while total < wanted:
            size = int(random.uniform(3, 16) * 16000)
            start = random.integers(len(speech) - size)
            sink = io.BytesIO()
            soundfile.write(
                sink,
                speech[start : start + size] + 0.003 * random.standard_normal(size),
                16000,
                format="FLAC",
            )
            info = tarfile.TarInfo(f"{number:04d}-{count:06d}.flac")
            info.size = len(sink.getvalue())
            tar.addfile(info, io.BytesIO(sink.getvalue()))
            total, count = total + size / 16000, count + 1
    return total


def step_feed(_):

    from speechmill.codecs import codec_info
    from speechmill.pipeline.run.job import RaySettings, WorkerSettings
    from speechmill.pipeline.run.ray_cluster import ALLOCATOR
    from speechmill.pipeline.run.ray_pool import RayPool
    from speechmill.pipeline.run.runner import Totals, run
    from speechmill.pipeline.shards.listing import list_shards
    from speechmill.pipeline.storage import Storage
    from speechmill.pipeline.tokenize.batching import BatchSettings
    from speechmill.pipeline.tokenize.decode import DecodeSettings
    from speechmill.pipeline.tokenize.job import TokenizeJob

    os.environ.update(ALLOCATOR)
    see_the_gpu()
    cpus = os.cpu_count() or 2
    with tempfile.TemporaryDirectory() as root:
        corpus = Path(root) / "corpus"
        corpus.mkdir()
        started = time.perf_counter()
        audio = make_tars(corpus, *((0.3, 2, 2) if CPU else (12, cpus, 8)))
        emit(
            step="feed",
            what="corpus",
            hours=round(audio / 3600, 2),
            made_in_s=round(time.perf_counter() - started, 1),
        )
        storage = Storage()
        shards = list_shards([str(p) for p in sorted(corpus.glob("*.tar"))], storage)
        cases = [
            ("null", "fp32", 160.0),
            ("focalcodec-50hz", "bf16", 160.0),
            ("focalcodec-50hz", "bf16", 640.0),
            ("simwhisper-16k", "bf16", 640.0),
            ("pure-16k-small", "bf16", 640.0),
        ]
        for name, precision, seconds in cases:
            if left() < 12:
                emit(step="feed", codec=name, skipped="no time left")
                continue
            with attempt("feed", codec=name, batch_s=seconds):
                options = {"name": "null"} if name == "null" else arguments_of(name)
                options |= {"device": DEVICE, "precision": precision}
                info = codec_info(
                    options["name"],
                    **{k: v for k, v in options.items() if k in ("checkpoint", "config")},
                )
                settings = DecodeSettings(
                    batch=BatchSettings(seconds=seconds, window_seconds=max(1280.0, 4 * seconds))
                )
                job = TokenizeJob(f"{root}/{name}-{seconds:g}", info, options, storage, settings)
                workers = WorkerSettings(
                    num_gpus=0 if CPU else 1, count=1, max_attempts=1, buffer_mb=2048.0
                )
                totals, used = Totals(), shards if name == "null" else shards[: len(shards) // 2]

                def seen(event, totals=totals):
                    if event.error:
                        raise event.error
                    totals.add(event)

                with RayPool(job, workers, RaySettings(num_cpus=cpus)) as pool:
                    started = time.perf_counter()
                    pool.wait(60)
                    ready = time.perf_counter() - started
                    run(used[:2], pool, workers, lambda e: None)
                    watch = _gpu_watch()
                    started = time.perf_counter()
                    run(used, pool, workers, seen)
                    took = time.perf_counter() - started
                    emit(
                        step="feed",
                        codec=name,
                        precision=precision,
                        batch_s=seconds,
                        hours=round(totals.audio_seconds / 3600, 2),
                        seconds=round(took, 2),
                        x_real_time=round(totals.audio_seconds / took),
                        ready_s=round(ready, 1),
                        encode_s=round(totals.encode_seconds, 2),
                        starved_s=round(totals.starved_seconds, 2),
                        decode_s=round(totals.decode_seconds, 1),
                        decode_cpu_s=round(totals.decode_cpu_seconds, 1),
                        rows=totals.rows,
                        gpu_busy=watch(),
                    )


def see_the_gpu():
    """Ray counts GPUs through NVML; a machine without it would have none."""
    import ray

    if DEVICE == "cuda":
        init = ray.init
        ray.init = lambda *a, **k: init(*a, **({"num_gpus": 1} | k))


def _gpu_watch():
    """Mean utilisation that nvidia-smi saw, asked for every 0.3 s."""
    if DEVICE != "cuda":
        return lambda: None
    command = [
        "nvidia-smi",
        "--query-gpu=utilization.gpu",
        "--format=csv,noheader,nounits",
        "-lms",
        "300",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    def stop():
        process.terminate()
        values = [float(v) for v in process.communicate()[0].split() if v.strip().isdigit()]
        return round(statistics.mean(values), 1) if values else None

    return stop


# ---------------------------------------------------------------- tests, training, compiling


def _pytest(*arguments):
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--noconftest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--no-header",
        "-o",
        "addopts=--import-mode=importlib",
        "--tb=short",
        *arguments,
    ]
    started = time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=max(5, left() - 3), cwd=ROOT
    )
    print(done.stdout[-6000:], done.stderr[-2000:], flush=True)
    tail = [
        line
        for line in done.stdout.splitlines()
        if line.startswith(("FAILED", "ERROR", "E  "))
        or " passed" in line
        or " failed" in line
        or " skipped" in line
    ]
    emit(
        step="pytest",
        rc=done.returncode,
        seconds=round(time.perf_counter() - started, 1),
        lines=tail[-25:],
    )


def step_pytest(_):
    _pytest("tests/gpu", "-k", "not compiled", "-n", "2" if CPU else "6")


def step_tests_compile(_):
    _pytest("tests/gpu", "-k", "compiled")


def step_compile(name):
    import torch

    patch_random_weights()
    torch._dynamo.config.suppress_errors = False
    for precision in ("bf16",):
        with attempt("compile", codec=name, precision=precision):
            plain, codec = load(name, precision), load(name, precision, compile=True)
            rate = codec.info.sample_rate
            seconds = [0.9, 1.1, 1.3] if CPU else lengths_of(160.0)
            audio = batch_of(rate, seconds)
            started = time.perf_counter()
            codes = codec.encode(*audio)
            sync()
            emit(
                step="compile",
                codec=name,
                precision=precision,
                first_s=round(time.perf_counter() - started, 1),
                mismatch=float((codes != plain.encode(*audio)).double().mean()),
            )
            peak_memory()
            median, _ = timed(lambda: codec.encode(*audio), 6, 2)
            facts = kernels_of(lambda: codec.encode(*audio), f"{name} {precision} compiled")
            emit(
                step="compile",
                codec=name,
                precision=precision,
                ms=round(median * 1e3, 2),
                x_real_time=round(sum(seconds) / median),
                peak_GB=peak_memory(),
                **facts,
            )
            started = time.perf_counter()
            other = batch_of(rate, [s * 0.999 for s in seconds[1:]])
            codec.encode(*other)
            sync()
            emit(
                step="compile",
                codec=name,
                what="fewer rows of the same width",
                s=round(time.perf_counter() - started, 2),
            )
    with attempt("regional", codec=name):  # the layers alone, once for all lengths
        codec = load(name, "bf16")
        layers = [
            m
            for m in codec.network.modules()
            if type(m).__name__ in ("TransformerLayer", "FocalBlock", "ConvBlock", "ResidualUnit")
        ]
        for layer in layers:
            layer.forward = torch.compile(layer.forward, dynamic=True)
        started = time.perf_counter()
        codec.encode(*audio)
        sync()
        first = time.perf_counter() - started
        median, _ = timed(lambda: codec.encode(*audio), 6, 2)
        emit(
            step="compile",
            codec=name,
            what="layer by layer, dynamic",
            first_s=round(first, 1),
            ms=round(median * 1e3, 2),
            x_real_time=round(sum(seconds) / median),
        )


def step_train(_):
    command = [
        sys.executable,
        str(ROOT / "tests/bench/train.py"),
        "--device",
        DEVICE,
        "--rounds",
        "1",
        "--steps",
        "3" if CPU else "20",
        "--hours",
        "0.02" if CPU else "0.2",
        "--threads",
        "1" if CPU else "2",
        "--only",
        "pure",
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=max(5, left() * 0.4), cwd=ROOT
    )
    print(done.stdout[-2000:], done.stderr[-2000:], flush=True)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    emit(
        step="train",
        what="tests/bench/train.py",
        rc=done.returncode,
        found=lines,
        error=done.stderr[-300:] if done.returncode else None,
    )
    import torch

    sys.path.insert(0, str(ROOT))
    from speechmill.codecs import load_recipe
    from speechmill.codecs.discriminators import Discriminators
    from speechmill.codecs.losses import GAN_LOSSES, feature_matching
    from speechmill.codecs.precision import autocast
    from speechmill.codecs.recipe import TrainingBatch

    cases = [
        ("focalcodec-50hz", "vocoder", 16, 2.0),
        ("pure-4k", "vae", 16, 1.0),
        ("dualcodec-12hz", "codec", 8, 2.0),
    ]
    for name, phase, rows, crop in cases:
        for precision in ("fp32",) if CPU else ("fp32", "tf32", "bf16"):
            if left() < 8:
                emit(step="train", codec=name, precision=precision, skipped="no time left")
                continue
            with attempt("train", codec=name, precision=precision):
                arguments = arguments_of(name)
                recipe = (
                    load_recipe(
                        arguments["name"], checkpoint="untrained", config=arguments.get("config")
                    )
                    .to(DEVICE)
                    .train()
                )
                recipe.begin_phase(phase)
                size = (
                    int((0.64 if CPU else crop) * recipe.sample_rate)
                    // recipe.hop_length
                    * recipe.hop_length
                )
                batch = TrainingBatch(0.1 * torch.randn(2 if CPU else rows, size, device=DEVICE))
                judges = Discriminators(
                    **({"period_channels": (4, 8), "band_channels": 4} if CPU else {})
                ).to(DEVICE)
                optimizer = torch.optim.AdamW(recipe.trainable_parameters().values(), lr=1e-5)
                judge_optimizer = torch.optim.AdamW(judges.parameters(), lr=1e-5)
                generator_loss, judges_loss = GAN_LOSSES[recipe.gan]

                def step():
                    with autocast(precision, torch.device(DEVICE)):
                        output = recipe(batch)
                        terms = dict(output.terms)
                        judges.requires_grad_(False)
                        fake = judges(output.audio_BT)
                        with torch.no_grad():
                            real = judges(output.target_BT)
                        judges.requires_grad_(True)
                        terms |= {
                            "adversarial": generator_loss(fake),
                            "feature": feature_matching(real, fake, mean=recipe.mean_features),
                        }
                        loss = recipe.weighted(terms)
                    optimizer.zero_grad()
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(
                        list(recipe.trainable_parameters().values()), 1.0
                    )
                    optimizer.step()
                    with autocast(precision, torch.device(DEVICE)):
                        both = torch.cat([output.target_BT, output.audio_BT.detach()])
                        features = judges(both)
                        real = [[f.chunk(2)[0] for f in one] for one in features]
                        fake = [[f.chunk(2)[1] for f in one] for one in features]
                        judged = judges_loss(real, fake)
                    judge_optimizer.zero_grad()
                    judged.backward()
                    judge_optimizer.step()
                    return float(loss.detach())

                peak_memory()
                median, _ = timed(step, 2 if CPU else 5, 1 if CPU else 2)
                facts = (
                    kernels_of(step, f"train {name} {phase} {precision}", 20)
                    if precision == "bf16"
                    else {}
                )
                emit(
                    step="train",
                    codec=name,
                    phase=phase,
                    precision=precision,
                    rows=rows,
                    crop_s=crop,
                    ms=round(median * 1e3, 1),
                    loss_is_finite=bool(torch.isfinite(torch.tensor(step()))),
                    peak_GB=peak_memory(),
                    **facts,
                )
                del recipe, judges, optimizer, judge_optimizer
                gc.collect()


def step_raytrain(_):
    """`speechmill train` through Ray Train on this GPU: NCCL, get_device, the queue, checkpoints, resuming."""
    from rich.console import Console

    from speechmill.jobs.commands.train import train
    from speechmill.jobs.config import load_config
    from speechmill.jobs.training.config import TrainConfig
    from speechmill.jobs.training.display import TrainDisplay

    see_the_gpu()
    with tempfile.TemporaryDirectory() as root:
        corpus = Path(root) / "corpus"
        corpus.mkdir()
        make_tars(corpus, 0.5 if CPU else 2, 2, 1)
        common = [
            f"shards=[{corpus}/]",
            f"output={root}/run",
            f"workers.num_gpus={0 if CPU else 1}",
            "workers.count=1",
            "checkpoint.every=10",
            "log.every=5",
            f"precision={'fp32' if CPU else 'bf16'}",
            "workers.max_failures=0",
            f"ray.num_cpus={os.cpu_count()}",
            "data.batch_size=4",
            "data.shuffle_buffer=20",
            "phases.quantize.warmup=2",
        ]
        for _ in range(2):  # the second run finds all done
            config = load_config(
                TrainConfig,
                ROOT / "configs/train/finetune.yaml",
                [*common, "phases.quantize.steps=30"],
            )
            started = time.perf_counter()
            with attempt("raytrain"):
                train(config, TrainDisplay(Console(quiet=True)))
                emit(
                    step="raytrain",
                    seconds=round(time.perf_counter() - started, 1),
                    files=sorted(p.name for p in Path(root, "run").iterdir()),
                )
            if left() < 20:
                break


def show_table():
    """The end of what is printed: the numbers that count."""
    lines = [json.loads(line) for line in (OUT / "results.jsonl").read_text().splitlines()]
    for kind, keys in (
        (
            "speed",
            ("codec", "precision", "ms", "x_real_time", "kernels", "gpu_ms", "share", "peak_GB"),
        ),
        ("graph", ("codec", "ms", "eager_network_ms", "x_real_time", "same_codes")),
        ("new shapes", ("codec", "x_real_time_first", "x_real_time_again")),
        ("batch size", ("codec", "padded_s", "x_real_time", "peak_GB")),
        ("compile", ("codec", "what", "first_s", "ms", "x_real_time", "kernels")),
        ("feed", ("codec", "batch_s", "x_real_time", "encode_s", "starved_s", "gpu_busy")),
    ):
        for line in lines:
            if line.get("step") == kind:
                print(
                    f"{kind:11s}",
                    "  ".join(f"{k} {line[k]}" for k in keys if line.get(k) is not None),
                )
    for line in lines:
        if "failed" in line or "ended" in line:
            print(
                "FAILED",
                {
                    k: str(line[k])[:160]
                    for k in ("failed", "ended", "codec", "error", "message")
                    if k in line
                },
            )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--budget", type=float, default=560.0)
    parser.add_argument("--steps", default="")
    parser.add_argument("--run", default="")
    options = parser.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    if options.run:
        step, _, argument = options.run.partition(":")
        with attempt(options.run):
            globals()[f"step_{step}"](argument)
        return
    started = float(os.environ.get("START", time.time()))
    os.environ["START"] = str(started)
    wanted = [s for s in options.steps.split(",") if s]
    plan = [(n, s) for n, s in STEPS if not wanted or n in wanted or n.split(":")[0] in wanted]
    with (OUT / "measure.log").open("a") as log:
        for name, limit in plan:
            remaining = options.budget - (time.time() - started)
            if remaining < 12:
                emit(step=name, skipped=f"{remaining:.0f} s left")
                continue
            limit = min(limit * (3 if CPU else 1), remaining - 4)
            before = time.time()
            log.write(f"\n######## {name}, at most {limit:.0f} s\n")
            log.flush()
            command = [sys.executable, __file__, "--run", name] + (["--cpu"] if CPU else [])
            environment = os.environ | {"STEP_END": str(time.time() + limit)}
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True
            )
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)  # the step's own group, which nothing else is in
                code = "timeout"
            line = {
                "step": "ended",
                "ended": name,
                "rc": code,
                "seconds": round(time.time() - before, 1),
            }
            if code == 0:
                del line["ended"]
                line["name"] = name
            emit(**line)
    show_table()


if __name__ == "__main__":
    main()
