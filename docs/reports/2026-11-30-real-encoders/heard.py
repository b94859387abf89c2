"""Print how many of the words of the texts a recognizer heard, in order: `heard.py results.json`.

WER also counts the words that a recognizer adds. On speech that it does not understand Whisper
repeats itself, so WER is far above 1 and says more of the repetitions than of the speech. The
interval is that of 95 % from drawing the clips again.
"""

import json
import sys
from pathlib import Path

import numpy as np

from speechmill.pipeline.quality.bootstrap import bootstrap_interval
from speechmill.pipeline.quality.transcript_errors import text_normalizer


def main(results: str) -> None:
    """Print a line for each system."""
    normalize = text_normalizer("whisper_english")
    for system in json.loads(Path(results).read_text())["systems"]:
        clips = [clip for clip in system["clips"] if clip["text"]]
        texts = [normalize(clip["text"]).split() for clip in clips]
        transcripts = [normalize(clip["transcript"] or "").split() for clip in clips]
        heard = np.array([num_in_order(*pair) for pair in zip(texts, transcripts, strict=True)])
        total = np.array([len(text) for text in texts])
        low, high = bootstrap_interval(heard, total)
        share = heard.sum() / total.sum()
        print(f"{system['label']}: {share:.1%} ({low:.1%} to {high:.1%}) of {total.sum()} words")


def num_in_order(text: list[str], transcript: list[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = np.zeros(len(transcript) + 1, int)
    for word in text:
        before = lengths.copy()
        for place, heard in enumerate(transcript, 1):
            longest = max(before[place], lengths[place - 1])
            lengths[place] = before[place - 1] + 1 if word == heard else longest
    return int(lengths[-1])


if __name__ == "__main__":
    main(*sys.argv[1:])
