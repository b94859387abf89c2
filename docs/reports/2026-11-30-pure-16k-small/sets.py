"""Write manifests of speech, held-out speech and noise: `sets.py CORPUS OUTPUT`.

CORPUS holds manifest.jsonl, in which every line has the path, kind ("clean" or "noise"), source,
speaker, language and duration of a recording. VoiceBank, CMU Arctic and every 16th speaker of
LibriSpeech are held out.
"""

import json
import sys
from pathlib import Path

LIBRISPEECH = "librispeech_train_clean_100"
HELD_OUT = ("voicebank", "cmu_arctic")
EVERY, FIRST = 16, 8  # of the speakers of LibriSpeech


def main(corpus: str, output: str) -> None:
    """Write the manifests and print their sizes."""
    root = Path(corpus).resolve()
    rows = [json.loads(line) for line in (root / "manifest.jsonl").read_text().splitlines()]
    libri = sorted({row["speaker"] for row in rows if row["source"] == LIBRISPEECH})
    held_out = set(libri[FIRST::EVERY])
    sets: dict[str, list[dict]] = {"speech": [], "heldout": [], "noise": []}
    for row in rows:
        if row["kind"] == "noise":
            sets["noise"].append(row)
        elif row["kind"] == "clean":
            is_held_out = row["speaker"] in held_out or row["source"] in HELD_OUT
            sets["heldout" if is_held_out else "speech"].append(row)
    Path(output).mkdir(parents=True, exist_ok=True)
    for name, chosen in sets.items():
        kept = [
            {"path": str(root / row["path"])}
            | {key: row.get(key) for key in ("speaker", "language")}
            for row in chosen
        ]
        lines = "".join(json.dumps(row) + "\n" for row in kept)
        Path(output, f"{name}.jsonl").write_text(lines)
        minutes = sum(row["duration"] for row in chosen) / 60
        print(f"{name}: {len(chosen)} recordings, {minutes:.1f} min")


if __name__ == "__main__":
    main(*sys.argv[1:])
