"""Print the mean differences of two codecs over the same clips: `paired.py results.json A B`.

The intervals are those of 95 % from drawing the clips again.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from speechmill.pipeline.quality.bootstrap import bootstrap_interval

SCORES = ("pesq", "stoi", "si_sdr", "mel", "dnsmos_ovr", "dnsmos_bak", "speaker")


def main(results: str, first: str, second: str) -> None:
    """Print a row of a table for each number of codebooks."""
    systems = json.loads(Path(results).read_text())["systems"]
    by_label: dict[str, dict[int, dict[str, Any]]] = {}
    for system in systems:
        if system["codec"]:
            depths = by_label.setdefault(system["label"], {})
            depths[system["codec"]["num_codebooks"]] = system
    for depth, system in by_label[first].items():
        cells = []
        for name in SCORES:
            ours, theirs = (
                np.array([clip["scores"].get(name, np.nan) for clip in each["clips"]])
                for each in (system, by_label[second][depth])
            )
            change = (theirs - ours)[~np.isnan(theirs - ours)]
            low, high = bootstrap_interval(change, np.ones_like(change))
            cells.append(f"{change.mean():+.3f} ({low:+.3f} to {high:+.3f})")
        print(" | ".join([f"| {depth}", *cells]) + " |")


if __name__ == "__main__":
    main(*sys.argv[1:])
