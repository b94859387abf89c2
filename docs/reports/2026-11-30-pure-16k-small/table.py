"""Print the scores of evaluations as rows of a table: `table.py results.json…`.

Each cell is the mean over the clips with its 95 % interval, from drawing the clips again.
"""

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = {
    "pesq": "{:.2f}",
    "stoi": "{:.3f}",
    "si_sdr": "{:.1f}",
    "mel": "{:.2f}",
    "dnsmos_ovr": "{:.2f}",
    "speaker": "{:.2f}",
    "wer": "{:.1%}",
}


def main(*results: str) -> None:
    """Print a row for each system and each number of codebooks."""
    for path in results:
        for system in json.loads(Path(path).read_text())["systems"]:
            books = system["codec"]["num_codebooks"] if system["codec"] else ""
            cells = [cell(system["scores"].get(name), form) for name, form in COLUMNS.items()]
            print("| " + " | ".join([system["label"], str(books), *cells]) + " |")


def cell(score: dict[str, Any] | None, form: str) -> str:
    """Return "mean (low to high)", or nothing for a metric that was not computed."""
    if score is None:
        return ""
    low, high = (form.format(bound) for bound in score["ci"])
    return f"{form.format(score['mean'])} ({low} to {high})"


if __name__ == "__main__":
    main(*sys.argv[1:])
