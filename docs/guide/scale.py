"""Compute the tables of scale.md: `python docs/guide/scale.py`, with your own figures.

Without options it writes them into scale.md; a test fails if they differ. With options it prints
them.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from math import ceil
from pathlib import Path

from speechmill.codecs import codec_info
from speechmill.jobs.commands.plan.forecast import KEYS_OF_A_LIST, Requests
from speechmill.pipeline.read_ahead import count_ranges

PAGE = Path(__file__).with_suffix(".md")
SPEEDS = (200, 1_000, 5_000, 20_000)  # x real time of one GPU
# kbit/s of speech: FLAC as measured in docs/guide/plan.md, the others at common settings.
KBITS = {"FLAC, 16 kHz": 126.0, "MP3": 64.0, "Opus": 32.0}
CODECS = ("focalcodec-50hz", "dualcodec-12hz", "simwhisper-16k", "pure-4k")
LISTINGS = 3  # of a run: its input, the parts before it and the parts after it
FILE_BYTES = 505e6  # of a compacted dataset
COMPACT_SPEED = 17e6  # bytes/s of tokens on one core
PART_OVERHEAD = 1.09  # bytes of a part / bytes of its codes packed, as docs/guide/compact.md has it


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A corpus, a cluster and prices."""

    hours: float = 1e6  # of audio
    kbit: float = 126.0  # per second of audio
    shard_mb: float = 500.0  # of a tar
    codec: str = "focalcodec-50hz"
    speed: float = 5_000.0  # x real time of one GPU: measure it by `speechmill plan`
    gpus: int = 64
    decode_speed: float = 2_900.0  # x real time of one core: FLAC, docs/guide/cluster.md
    gpu_hour: float = 2.0
    core_hour: float = 0.04
    million_gets: float = 0.4
    million_puts: float = 5.0  # and of LIST
    egress_gb: float = 0.0  # 0: the store is in the region of the GPUs
    losses: float = 0.05  # share of the nodes that a spot market takes away in an hour
    absent_seconds: float = 390.0  # until another node has started and loaded the codec
    slots: int = 3  # shards in flight at a worker
    driver_rate: float = 300.0  # shards that one driver starts and ends in a second

    @property
    def bytes_per_hour(self) -> float:
        """Of the tars."""
        return self.kbit * 1000 / 8 * 3600

    @property
    def shards(self) -> int:
        return ceil(self.hours * self.bytes_per_hour / (self.shard_mb * 1e6))

    @property
    def shard_hours(self) -> float:
        """Audio in a shard."""
        return self.hours / self.shards

    @property
    def gpu_hours(self) -> float:
        return self.hours / self.speed

    @property
    def shard_seconds(self) -> float:
        """From the start of a shard to its end, if its worker holds `slots` and never waits."""
        return self.slots * self.shard_hours * 3600 / self.speed

    @property
    def cores(self) -> float:
        """Of each GPU: those that decode, and one that feeds it."""
        return self.speed / self.decode_speed + 1

    @property
    def gpu_bytes(self) -> float:
        """Bytes that a GPU reads in a second."""
        return self.speed * self.bytes_per_hour / 3600

    @property
    def repeated(self) -> float:
        """Share of the work that is lost with nodes, if all shards take the same time."""
        return self.losses * self.shard_seconds / 2 / 3600

    @property
    def absent(self) -> float:
        """Share of the time in which a worker is away."""
        return self.losses * self.absent_seconds / 3600

    @property
    def wall_hours(self) -> float:
        return self.gpu_hours / self.gpus * (1 + self.repeated) / (1 - self.absent)

    @property
    def token_bytes_per_hour(self) -> float:
        """Of the parts."""
        return kbps_of(self.codec) * 1000 / 8 * 3600 * PART_OVERHEAD

    @property
    def requests(self) -> Requests:
        """Without those of faults and of rejects."""
        return Requests(
            get=self.shards * count_ranges(round(self.shard_mb * 1e6)),
            list=LISTINGS * ceil(self.shards / KEYS_OF_A_LIST),
            put=self.shards,
        )

    @property
    def workers_of_a_driver(self) -> float:
        return self.driver_rate * self.shard_seconds / self.slots

    def costs(self) -> dict[str, float]:
        """Return the cost of each thing that is paid for."""
        paid_hours = self.wall_hours * self.gpus
        writes = self.requests.put + self.requests.list
        return {
            "GPUs": paid_hours * self.gpu_hour,
            "cores": paid_hours * self.cores * self.core_hour,
            "GET": self.requests.get / 1e6 * self.million_gets,
            "PUT, LIST": writes / 1e6 * self.million_puts,
            "egress": self.hours * self.bytes_per_hour / 1e9 * self.egress_gb,
        }


def speeds_table(plan: Plan) -> list[list[str]]:
    """Return GPU-hours, hours, cores and bandwidth by the speed of a GPU."""
    rows = [
        [
            "speed of a GPU",
            "GPU-hours",
            f"hours on {plan.gpus} GPUs",
            f"hours on {8 * plan.gpus}",
            "cores for each GPU",
            *(f"MB/s of {name}" for name in KBITS),
        ]
    ]
    for speed in SPEEDS:
        one, many = replace(plan, speed=speed), replace(plan, speed=speed, gpus=8 * plan.gpus)
        reads = [replace(one, kbit=kbit).gpu_bytes / 1e6 for kbit in KBITS.values()]
        rows.append(
            [
                f"{speed:,} x real time",
                f"{one.gpu_hours:,.0f}",
                f"{one.wall_hours:,.1f}",
                f"{many.wall_hours:,.1f}",
                f"{one.cores:.1f}",
                *(f"{each:.1f}" for each in reads),
            ]
        )
    return rows


def requests_table(plan: Plan) -> list[list[str]]:
    """Return size, shards and requests by the format of the audio."""
    rows = [["input", "kbit/s", "TB", "shards", "hours in each", "GET", "PUT", "LIST"]]
    for name, kbit in KBITS.items():
        one = replace(plan, kbit=kbit)
        calls = one.requests
        rows.append(
            [
                name,
                f"{kbit:.0f}",
                f"{one.hours * one.bytes_per_hour / 1e12:.1f}",
                f"{one.shards:,}",
                f"{one.shard_hours:.1f}",
                *(f"{count:,}" for count in (calls.get, calls.put, calls.list)),
            ]
        )
    return rows


def tokens_table(plan: Plan) -> list[list[str]]:
    """Return the size of the tokens, before and after `compact`, by codec."""
    rows = [["codec", "kbit/s", "TB", "a part of each shard", "compacted files", "core-hours"]]
    for name in CODECS:
        one = replace(plan, codec=name)
        total = one.hours * one.token_bytes_per_hour
        rows.append(
            [
                f"`{name}`",
                f"{kbps_of(name):.2f}",
                f"{total / 1e12:.2f}",
                f"{total / one.shards / 1e6:.2f} MB",
                f"{ceil(total / FILE_BYTES):,}",
                f"{total / COMPACT_SPEED / 3600:.1f}",
            ]
        )
    return rows


def shards_table(plan: Plan) -> list[list[str]]:
    """Return what the size of a shard decides, at the speed of the plan."""
    rows = [
        [
            "tar",
            "shards",
            "audio in each",
            "time of a shard",
            "repeated after losses",
            "workers of one driver",
        ]
    ]
    for size in (50, 250, 500, 1000, 4000):
        one = replace(plan, shard_mb=size)
        rows.append(
            [
                f"{size:,} MB",
                f"{one.shards:,}",
                f"{one.shard_hours:.1f} h",
                f"{one.shard_seconds:.1f} s",
                f"{one.repeated:.4%}",
                f"{one.workers_of_a_driver:,.0f}",
            ]
        )
    return rows


def costs_table(plan: Plan) -> list[list[str]]:
    """Return the cost of each thing that is paid for, by the speed of a GPU."""
    plans = [replace(plan, speed=speed) for speed in SPEEDS]
    costs = [each.costs() for each in plans]
    rows = [["speed of a GPU", *costs[0], "in all"]]
    for each, cost in zip(plans, costs, strict=True):
        cells = [f"{value:,.0f}" for value in (*cost.values(), sum(cost.values()))]
        rows.append([f"{each.speed:,} x real time", *cells])
    return rows


TABLES: dict[str, Callable[[Plan], list[list[str]]]] = {
    "speeds": speeds_table,
    "requests": requests_table,
    "tokens": tokens_table,
    "shards": shards_table,
    "costs": costs_table,
}


@cache
def kbps_of(codec: str) -> float:
    """Return kbit of codes for each second of audio."""
    return float(codec_info(codec, checkpoint="untrained").kbps)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first row is its head."""
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def filled(page: str, plan: Plan) -> str:
    """Return the page with the tables of a plan between its marks."""
    for name, table in TABLES.items():
        block = re.compile(rf"(<!-- scale\.py: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = markdown(table(plan))
        page, count = block.subn(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
        if count != 1:
            raise SystemExit(f"scale.md has {count} places for the table {name}, and needs one")
    return page


def main() -> None:
    """Write the page, or print the tables for other figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for one in fields(Plan):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=type(one.default))
    given = {name: value for name, value in vars(parser.parse_args()).items() if value is not None}
    plan = Plan(**given)
    if given:
        print("\n\n".join(markdown(table(plan)) for table in TABLES.values()))
    else:
        PAGE.write_text(filled(PAGE.read_text(), plan))


if __name__ == "__main__":
    main()
