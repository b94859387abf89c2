"""A plan as tables for a person, and as JSON for a script."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from speechmill.jobs.commands.plan.forecast import CodecForecast, Prices, RunForecast, Wall
from speechmill.jobs.commands.plan.plan import Listed, Plan
from speechmill.jobs.commands.plan.probe import Probe
from speechmill.jobs.commands.plan.sampling import Estimate
from speechmill.jobs.display import add_plain_row, facts_table, print_line
from speechmill.jobs.report.wording import audio_length, counted

_FEW = 8  # shards of a probe, below which its error is large
_BIG = 1e8  # bytes, from which on they are shown as GB


def print_plan(found: Plan, console: Console) -> None:
    """Print a table for each codec, and the run of all of them."""
    tables = [_listed_rows(*pair, found) for pair in found.with_forecasts()]
    if found.run:
        several = {"run": f"{len(tables)} codecs at a time; all of it is decoded once"}
        run_rows = _run_rows(found.run, found.forecasts)
        tables = [*tables, several | run_rows] if tables[1:] else [tables[0] | run_rows]
    for rows in tables:
        console.print(facts_table(rows))
    if not (found.probe and found.run):
        return
    console.print(_scale_table(found.run, found.prices))
    for line in _notes(found.probe, found.run, found.prices):
        print_line(console, line)


def _listed_rows(listed: Listed, forecast: CodecForecast | None, found: Plan) -> dict[str, str]:
    before = f", {listed.failed_before} of them failed before" if listed.failed_before else ""
    size = sum(shard.size for shard in listed.shards)
    todo_size = sum(shard.size for shard in listed.todo)
    rows = {
        "codec": listed.codec.title,
        "output": f"{listed.dataset.root} ({'new' if listed.is_new else 'continued'})",
        "shards": f"{len(listed.shards):,}, {_size(size)}",
        "to do": f"{len(listed.todo):,}, {_size(todo_size)}{before}",
        "audio to do": _audio(listed, forecast),
    }
    if forecast:
        clips, rejects = forecast.clips, forecast.rejects
        rows["utterances"] = f"{_count(clips)}, and {_count(rejects)} rejects"
        rows["tokens"] = f"{_size(forecast.bytes_out.value)}{_error(forecast.bytes_out)}"
    if found.passed_over:
        rows["passed over"] = found.passed_over
    if seconds := _seconds_at_last_speed(listed):
        rows["time"] = f"about {duration(seconds)} at the speed of the last run"
    return rows


def _audio(listed: Listed, forecast: CodecForecast | None) -> str:
    parts = listed.finished
    if forecast:
        audio = forecast.audio_seconds
        text = f"{audio_length(audio.value)}{_error(audio)}"
        if parts and forecast.finished_fit:
            return f"{text}, by the probe and {parts.parts} parts that are done"
        if parts:
            return (
                f"{text}, by the probe; the parts that are done say "
                f"{audio_length(parts.audio_seconds.value)}"
            )
        return text
    if not listed.todo:
        return "none"
    if parts:
        return f"about {audio_length(parts.audio_seconds.value)}, by the parts that are done"
    return "not known before the first part"


def _run_rows(run: RunForecast, forecasts: Sequence[CodecForecast]) -> dict[str, str]:
    place, encode, decode = run.place, run.encode_seconds, run.decode_cpu_seconds
    audio = max(each.audio_seconds.value for each in forecasts)
    rows = {
        "encoding": _work(encode, "GPU" if place.on_gpu else "CPU", audio),
        "decoding": _work(decode, "core", audio),
    }
    if place.on_gpu:
        rows["CPU cores"] = f"{run.decode_cores:.1f} for each GPU to decode, and 1 to feed it"
    requests = run.requests
    rows["requests"] = "none, all is on local disks"
    if requests.total:
        rows["requests"] = (
            f"{requests.total:,}: {requests.get:,} GET, {requests.head:,} HEAD, "
            f"{requests.list:,} LIST, {requests.put:,} PUT"
        )
    rows["start, end"] = f"{duration(run.start_seconds)} of each run"
    return rows


def _work(seconds: Estimate, unit: str, audio: float) -> str:
    hours = seconds.value / 3600
    said = f"{hours:,.4g} {unit}-hours" if hours >= 1 else f"{duration(seconds.value)} of a {unit}"
    speed = f", {audio / seconds.value:,.0f} x real time" if seconds.value else ""
    return f"{said}{_error(seconds)}{speed}"


def _scale_table(run: RunForecast, prices: Prices) -> Table:
    unit = "GPU" if run.place.on_gpu else "machine"
    table = Table(box=None)
    names = [f"{unit}s", "wall time", f"{unit}-hours"]
    priced = any(getattr(prices, one.name) is not None for one in fields(prices))
    for name in [*names, *(["cost"] if priced else [])]:
        table.add_column(name, justify="right")
    for wall in run.walls:
        cells = [f"{wall.units}", f"{duration(wall.seconds.value)}{_error(wall.seconds)}"]
        cells.append(f"{wall.unit_hours:,.3g}")
        cost = run.cost(wall, prices)
        add_plain_row(table, *cells, *([_money(cost)] if cost is not None else []))
    return table


def _notes(probe: Probe, run: RunForecast, prices: Prices) -> Iterator[str]:
    """Yield what a reader must know to trust the numbers."""
    shards = sum(map(len, probe.strata))
    read, size = probe.bytes_read, sum(s.size for stratum in probe.strata for s in stratum)
    whole = sum(part.whole for part in probe.parts.values())
    yield (
        f"probed {len(probe.parts)} of {counted(shards, 'shard')} ({whole} to their end), "
        f"{read / (size or 1):.0%} of the bytes, in {probe.seconds:.0f} s; "
        "± is an interval of 90 % of the sample"
    )
    if 0 < len(probe.parts) < _FEW and whole + len(probe.unreadable) < shards:
        few = counted(len(probe.parts), "shard")
        yield f"{few} may not stand for the rest: give the probe more time, as --probe 300s"
    if probe.unreadable:
        shard = next(iter(probe.unreadable))
        yield f"cannot read {counted(len(probe.unreadable), 'probed shard')}, such as {shard.url}"
    if run.place.on_gpu:
        yield f"the speed is that of {run.place.device}, with {run.place.cores:g} cores for each"
    else:
        yield f"the speed is that of this CPU ({run.place.cores:g} cores), not of a GPU"
    if max(wall.units for wall in run.walls) > shards:
        unit = "GPU" if run.place.on_gpu else "machine"
        busy = f"{counted(shards, 'shard')} can keep at most {counted(shards, unit)} busy"
        yield f"{busy}; to use more, make smaller shards"
    yield from _price_notes(run, prices)


def _price_notes(run: RunForecast, prices: Prices) -> Iterator[str]:
    wanted = {
        "--gpu-hour": ("GPUs", prices.gpu_hour, run.place.on_gpu),
        "--core-hour": ("CPU cores", prices.core_hour, True),
        "--million-requests": ("requests", prices.million_requests, run.requests.total > 0),
    }
    missing = {
        option: name for option, (name, price, used) in wanted.items() if used and price is None
    }
    if missing:
        yield f"no cost of {', '.join(missing.values())}: give {' '.join(missing)}"
    if prices.gpu_hour is not None and not run.place.on_gpu:
        yield "--gpu-hour is not used: the probe had no GPU, so GPU-hours are not known"
    if prices.million_requests is not None and not run.requests.total:
        yield "--million-requests is not used: all is on local disks"


def plan_json(found: Plan) -> str:
    """Return a plan for each codec, for a script."""
    run = {"run": _run_json(found) if found.run else None}
    plans = [_codec_json(*pair, found) | run for pair in found.with_forecasts()]
    return json.dumps(plans, indent=2)


def _codec_json(listed: Listed, forecast: CodecForecast | None, found: Plan) -> dict[str, Any]:
    audio = (
        forecast.audio_seconds if forecast else listed.finished and listed.finished.audio_seconds
    )
    return {
        "codec": listed.codec.title,
        "output": listed.dataset.root,
        "is_new": listed.is_new,
        "shards": len(listed.shards),
        "bytes": sum(shard.size for shard in listed.shards),
        "todo": len(listed.todo),
        "todo_bytes": sum(shard.size for shard in listed.todo),
        "failed_before": listed.failed_before,
        "todo_hours": audio.value / 3600 if audio else None,
        "todo_seconds": _seconds_at_last_speed(listed),
        "passed_over": found.passed_over,
        "estimate": forecast and _forecast_json(forecast),
    }


def _forecast_json(forecast: CodecForecast) -> dict[str, Any]:
    return {
        **_interval("audio_hours", forecast.audio_seconds.times(1 / 3600)),
        **_interval("bytes_out", forecast.bytes_out),
        **_interval("utterances", forecast.clips),
        **_interval("rejects", forecast.rejects),
        **_interval("encode_hours", forecast.encode_seconds.times(1 / 3600)),
        "finished_parts": forecast.finished.parts if forecast.finished else 0,
        "finished_parts_used": bool(forecast.finished and forecast.finished_fit),
    }


def _run_json(found: Plan) -> dict[str, Any]:
    run, probe = found.run, found.probe
    assert run
    assert probe
    encode = run.encode_seconds.times(1 / 3600)
    return {
        **_interval("encode_hours", encode),
        **(_interval("gpu_hours", encode) if run.place.on_gpu else {"gpu_hours": None}),
        **_interval("decode_core_hours", run.decode_cpu_seconds.times(1 / 3600)),
        "decode_cores_per_gpu": run.decode_cores if run.place.on_gpu else None,
        "start_seconds": run.start_seconds,
        "requests": asdict(run.requests) | {"total": run.requests.total},
        "unit": "gpu" if run.place.on_gpu else "machine",
        "scales": [_wall_json(run, wall, found.prices) for wall in run.walls],
        "probe": {
            "shards": len(probe.parts),
            "whole_shards": sum(part.whole for part in probe.parts.values()),
            "unreadable_shards": len(probe.unreadable),
            "bytes_read": round(probe.bytes_read),
            "seconds": probe.seconds,
            "device": run.place.device,
            "cores": run.place.cores,
        },
    }


def _wall_json(run: RunForecast, wall: Wall, prices: Prices) -> dict[str, Any]:
    return {
        "units": wall.units,
        **_interval("wall_seconds", wall.seconds),
        "unit_hours": wall.unit_hours,
        "cost": run.cost(wall, prices),
    }


def _interval(name: str, estimate: Estimate) -> dict[str, float | None]:
    """Return an estimate and its interval of 90 %."""
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _seconds_at_last_speed(listed: Listed) -> float | None:
    if listed.finished is None or not listed.last_speed:
        return None
    return listed.finished.audio_seconds.value / listed.last_speed


def _money(cost: float) -> str:
    return f"{cost:,.2f}" if cost >= 1 or not cost else f"{cost:.2g}"


def _count(estimate: Estimate) -> str:
    return f"{estimate.value:,.0f}{_error(estimate)}"


def _error(estimate: Estimate) -> str:
    if estimate.relative is None:
        return ", error not known"
    percent = 100 * estimate.relative
    return f" ± {percent:.{0 if percent >= 10 else 1}f} %" if percent else ""


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= _BIG else f"{num_bytes / 1e6:,.2f} MB"


def duration(seconds: float) -> str:
    """Return a time as a person says it: `45 s`, `12 min 5 s`, `3 h 20 min`, `12 d 4 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    for name, size, next_name, next_size in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // next_size} {next_name}"
    return f"{whole} s"
