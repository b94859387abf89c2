"""Word and character errors of transcripts, between texts that are normalized alike."""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from speechmill.pipeline.errors import check_choice
from speechmill.pipeline.imports import load_extra

Normalize = Callable[[str], str]

NORMALIZERS = ("simple", "whisper_english", "whisper_basic")

# Of Thai, Lao, Myanmar, Khmer, Japanese and Chinese, which are written without spaces.
_UNSPACED = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


@dataclass(frozen=True, slots=True)
class ErrorCount:
    """The edit distance of a transcript from its text."""

    errors: int  # substitutions, deletions and insertions
    total: int  # words or characters of the text

    @property
    def rate(self) -> float:
        return self.errors / self.total


def text_normalizer(name: str) -> Normalize:
    """Return a function that maps spellings of one utterance to the same words.

    `simple`: case-folded words without punctuation. `whisper_english` and `whisper_basic`: those of
    Whisper (Radford et al. 2022, arXiv 2212.04356, appendix C), the latter for other languages.
    """
    check_choice("metrics.normalizer", name, NORMALIZERS)
    if name == "simple":
        return words
    if name == "whisper_english":
        normalize = load_extra("whisper_normalizer.english", "evaluate").EnglishTextNormalizer()
    else:
        normalize = load_extra("whisper_normalizer.basic", "evaluate").BasicTextNormalizer()
    return lambda text: " ".join(normalize(text).split())


def words(text: str) -> str:
    """Return the case-folded words of a text, without punctuation.

    Letters keep their marks, such as vowel signs. Where a script has no spaces, punctuation leaves
    none.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    folded = folded.replace("\u2019", "'").replace("i\u0307", "i")  # the latter of Turkish İ
    kept = "".join(c if c == "'" or unicodedata.category(c)[0] in "LMN" else " " for c in folded)
    spaced = " ".join(word for part in kept.split() if (word := part.strip("'")))
    return re.sub(f"(?<={_UNSPACED}) (?={_UNSPACED})", "", spaced)


def count_errors(text: str, transcript: str) -> dict[str, ErrorCount]:
    """Return the errors of words (`wer`) and characters (`cer`) of normalized, non-empty texts.

    Spaces count as characters.
    """
    pairs = {"wer": (text.split(), transcript.split()), "cer": (list(text), list(transcript))}
    return {
        name: ErrorCount(edit_distance(said, heard), len(said))
        for name, (said, heard) in pairs.items()
    }


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the least number of substitutions, deletions and insertions between two sequences.

    It is written here because torchmetrics, which has it too, needs 10 s and 1 GB for the
    characters of five minutes of speech.
    """
    numbers = {token: number for number, token in enumerate({*one, *other})}
    columns = np.array([numbers[token] for token in other], np.int64)
    insertions = np.arange(len(other) + 1)
    row = insertions
    for deletions, token in enumerate(one, start=1):
        changed = np.minimum(row[1:] + 1, row[:-1] + (columns != numbers[token]))
        row = np.concatenate([[deletions], changed])
        row = np.minimum.accumulate(row - insertions) + insertions
    return int(row[-1])
