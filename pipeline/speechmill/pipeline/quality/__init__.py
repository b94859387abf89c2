"""Measures of audio, transcripts and codes: what a codec or an enhancer kept and what it lost."""

RATE = 16_000  # Hz, of all audio that is compared or rated
