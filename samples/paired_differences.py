"""Print what the second of two evaluated codecs adds: `paired_differences.py results.json A B`.

For each number of codebooks that both have, or for the only one of each: the mean difference of
each metric over the same clips, with its 95 % interval from drawing the clips again. It tells
smaller differences from chance than the intervals of the two means do, because a clip that is hard
for both codecs does not count.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechmill.jobs.evaluation.results import METRICS
from speechmill.pipeline.quality.bootstrap import bootstrap_interval

Clips = dict[str, dict[str, Any]]  # by key, as in results.json


def main(results: str, first: str, second: str) -> None:
    """Print the rows of a table in Markdown."""
    systems = [s for s in json.loads(Path(results).read_text())["systems"] if s["codec"]]
    one, other = (clips_by_depth(systems, label) for label in (first, second))
    depths = [(n, n) for n in one if n in other]
    if len(one) == len(other) == 1:
        depths = [(*one, *other)]
    if not depths:
        known = ", ".join(dict.fromkeys(system["label"] for system in systems))
        sys.exit(f"{first} and {second} have no number of codebooks in common; codecs: {known}")
    pairs = {depth: (one[depth[0]], other[depth[1]]) for depth in depths}
    metrics = [name for name in METRICS if all(any(differences(*p, name)) for p in pairs.values())]
    print(" | ".join(["| codebooks", *(METRICS[name].title for name in metrics)]) + " |")
    print("|---" * (1 + len(metrics)) + "|")
    for depth, pair in pairs.items():
        row = [" and ".join(str(n) for n in sorted(set(depth)))]
        row += [cell(*pair, name) for name in metrics]
        print(f"| {' | '.join(row)} |")


def clips_by_depth(systems: Sequence[dict[str, Any]], label: str) -> dict[int, Clips]:
    """Return the clips of a codec by the number of codebooks."""
    return {
        system["codec"]["num_codebooks"]: {clip["key"]: clip for clip in system["clips"]}
        for system in systems
        if system["label"] == label
    }


def differences(before: Clips, after: Clips, metric: str) -> Iterator[tuple[float, float]]:
    """Yield the difference and the weight of each clip on which both have a score.

    For WER and CER that is the difference of errors, and the length of the text.
    """
    for key, clip in before.items():
        if key not in after:
            continue
        one, other = clip, after[key]
        if metric in one["errors"]:
            counts = [each["errors"][metric] for each in (one, other)]
            yield counts[1]["errors"] - counts[0]["errors"], counts[0]["total"]
        elif None not in (scores := [each["scores"].get(metric) for each in (one, other)]):
            yield scores[1] - scores[0], 1.0


def cell(before: Clips, after: Clips, metric: str) -> str:
    """Return the mean difference and its interval."""
    changes, weights = zip(*differences(before, after, metric), strict=True)
    low, high = bootstrap_interval(changes, weights)
    return f"{sum(changes) / sum(weights):+.3f} ({low:+.3f} to {high:+.3f})"


if __name__ == "__main__":
    main(*sys.argv[1:])
