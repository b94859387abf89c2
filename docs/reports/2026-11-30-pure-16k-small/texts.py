"""Give recordings a text if two recognizers nearly agree: `texts.py MANIFEST WHISPER`.

Moonshine's transcript becomes the text if Whisper's has at most one error in ten words of it. The
new manifest, MANIFEST with -text before its suffix, has all recordings; those with a text are in
English, at 16 kHz. Needs `moonshine-voice`.
"""

import json
import sys
from pathlib import Path

import soundfile
from moonshine_voice import ModelArch, Transcriber, get_assets_path

from speechmill.pipeline.quality.speech import speech_recognizer
from speechmill.pipeline.quality.transcript_errors import count_errors, text_normalizer

MOST_ERRORS = 0.1


def main(manifest: str, whisper: str) -> None:
    """Write the manifest and print how many recordings have a text."""
    path = Path(manifest)
    recognize = speech_recognizer(whisper, "cpu", {})
    moonshine = Transcriber(f"{get_assets_path()}/tiny-en", ModelArch.TINY)
    normalize = text_normalizer("whisper_english")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        audio_T, sample_rate = soundfile.read(row["path"], dtype="float32")
        if row["language"] != "en" or sample_rate != 16_000:
            continue
        lines = moonshine.transcribe_without_streaming(audio_T.tolist()).lines
        text = " ".join(line.text.strip() for line in lines)
        heard = normalize(recognize(audio_T))
        if normalize(text) and count_errors(normalize(text), heard)["wer"].rate <= MOST_ERRORS:
            row["text"] = text
    written = path.with_stem(f"{path.stem}-text")
    written.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{sum('text' in row for row in rows)} of {len(rows)} recordings have a text")


if __name__ == "__main__":
    main(*sys.argv[1:])
