"""Measures of audio, transcripts and codes: what a codec or an enhancer kept and what it lost."""
