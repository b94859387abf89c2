"""`speechmill codecs`: every codec with its facts."""

from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.table import Table

from speechmill.codecs import codec_card, codec_info, list_codecs
from speechmill.jobs.display import add_plain_row


def describe_codecs() -> list[dict[str, Any]]:
    """Return the facts of every codec; nothing is fetched or built."""
    return [_describe(name) for name in list_codecs()]


def _describe(name: str) -> dict[str, Any]:
    info, card = codec_info(name, checkpoint="untrained"), codec_card(name)
    return {
        "name": name,
        "kbps": round(info.kbps, 4),
        "frame_rate": info.frame_rate,
        "codebook_sizes": info.codebook_sizes,
        "num_semantic_codebooks": info.num_semantic_codebooks,
        "sample_rate": info.sample_rate,
        "output_sample_rate": info.output_sample_rate,
        "hop_length": info.hop_length,
        **asdict(card),
        "unpinned": card.unpinned,
    }


def codecs_table(codecs: list[dict[str, Any]]) -> Table:
    """Return one row for each codec; rates of input and output are in kHz."""
    header = ("codec", "kbit/s", "frames/s", "codebooks", "kHz", "parameters", "weights", "paper")
    table = Table(*header, box=None)
    for codec in codecs:
        books = Counter(codec["codebook_sizes"]).items()
        add_plain_row(
            table,
            codec["name"],
            f"{codec['kbps']:.2f}",
            f"{codec['frame_rate']:g}",
            " ".join(f"{count} x {size}" for size, count in books),
            _kilohertz(codec["sample_rate"], codec["output_sample_rate"]),
            "unknown" if codec["parameters"] is None else f"{codec['parameters'] / 1e6:.1f} M",
            codec["licence"] + (", not pinned" if codec["unpinned"] else ""),
            codec["paper"],
        )
    return table


def _kilohertz(taken: int, given: int) -> str:
    return f"{taken / 1000:g}" if taken == given else f"{taken / 1000:g} to {given / 1000:g}"
