"""Draw the log of `train.py` as an SVG: how far each codebook is below its unigram entropy."""

import json
from pathlib import Path
from typing import Any

import typer

from speechmill.jobs.cli.app import exit_codes
from speechmill.pipeline.errors import InputError

WIDTH, HEIGHT, LEFT, TOP = 720, 320, 56, 28  # px
COLORS = ("#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#d8c100")


def measurements(run: Path) -> list[dict[str, Any]]:
    """The log of a run; raises `InputError` if it holds less than a curve."""
    log = run / "log.jsonl"
    try:
        found = [json.loads(line) for line in log.read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise InputError(f"{log} is not the log of a training ({error}); train first") from error
    if len(found) < 2:
        raise InputError(f"{log} holds {len(found)} measurements; train until there are two")
    return found


def curve(run: Path, output: Path) -> None:
    """Draw the curves of a run."""
    with exit_codes():
        output.write_text(drawing(measurements(run)))


def drawing(entries: list[dict[str, Any]]) -> str:
    """The SVG of some measurements."""
    steps = [entry["step"] for entry in entries]
    gains = [
        [entry["held_out_bits"][book] - bits for entry in entries]
        for book, bits in enumerate(entries[0]["unigram_bits"])
    ]
    low, high = min(map(min, gains)), max(0.1, *map(max, gains))

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - 110) * step / steps[-1]

    def y(bits: float) -> float:
        return TOP + (HEIGHT - TOP - 40) * (high - bits) / (high - low)

    shapes = []
    tick = 0.0
    while tick >= low:
        line = f'<line x1="{LEFT}" x2="{x(steps[-1]):.1f}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"'
        shapes.append(f'{line} stroke="#888" stroke-width="{0.4 if tick else 1.2}"/>')
        shapes.append(text(LEFT - 8, y(tick) + 4, f"{tick:.1f}", "end"))
        tick -= 0.5
    for book, values in enumerate(gains):
        points = " ".join(f"{x(s):.1f},{y(v):.1f}" for s, v in zip(steps, values, strict=True))
        color = COLORS[book % len(COLORS)]
        shapes.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'
        )
        label = f"codebook {book}"
        shapes.append(text(WIDTH - 98, TOP + 20 * (book + 1), label, "start", color))
    shapes.append(text(LEFT, 16, "held-out bits per code, less the unigram entropy", "start"))
    minutes = entries[-1]["seconds"] / 60
    shapes.append(text(x(steps[-1]), HEIGHT - 8, f"{steps[-1]} steps, {minutes:.0f} min", "end"))
    body = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" '
        f'fill="#fff"/>\n{body}\n</svg>\n'
    )


def text(x: float, y: float, words: str, anchor: str, color: str = "#444") -> str:
    """A line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}">{words}</text>'


if __name__ == "__main__":
    typer.run(curve)
