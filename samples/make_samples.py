"""Synthesize the clips in this folder and their manifest, the same bytes on every run.

Needs espeak-ng 1.51 (`apt-get install espeak-ng`) and the packages of this project:
`python samples/make_samples.py`
"""

import io
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr

HERE = Path(__file__).parent

NIGHT_TRAIN = (
    "The night train left the harbour at half past ten, and nobody on the platform waved. "
    "Behind the last window sat a woman with a box of seeds on her knees, counting the bridges. "
    "She had drawn a map of the valley from memory, with a cross where the old mill used to be. "
    "At every station a voice read out the names of the villages, slowly, as if they were new. "
    "Some of them had no lights at all, and others had only one, above the door of an inn. "
    "When the sun came up, the river was on the wrong side, and the mountains were gone. "
    "A boy with a trumpet case told her that the line had been moved in spring, after the flood. "
    "She laughed, opened the box, and gave him a handful of seeds for the garden of his school."
)
LIGHTHOUSE = (
    "Der alte Leuchtturm steht seit hundert Jahren auf dem Felsen vor der Insel. "
    "Jeden Abend steigt die Wärterin die zweihundert Stufen hinauf und putzt das Glas. "
    "Im Winter hört sie nur den Wind, im Sommer die Stimmen der Gäste am Strand. "
    "Einmal im Monat bringt ein Boot frisches Brot, Zeitungen und neue Lampen."
)
LETTER = (
    "Querida Inés, te escribo desde el tren, con el papel sobre las rodillas. "
    "Ayer vimos el mar por primera vez, y el niño no quería volver al hotel. "
    "Guárdame un poco de tu pan, que llegamos el domingo."
)
SNOW = (
    "Le premier matin de neige, tout le village sort sans parler. "
    "On entend seulement les pas, et la cloche de l'école."
)


@dataclass(frozen=True)
class Clip:
    """One sentence or more, and how it is spoken and stored."""

    path: str
    voice: str  # espeak-ng's language, with +variant
    rate: int  # Hz
    subtype: str | None  # soundfile's; None is the format's own
    text: str
    channels: int = 1
    speed: int = 160  # words per minute


CLIPS = (
    Clip("de/apfel.mp3", "de+f2", 44100, None, "Der Apfel fällt nicht weit vom Stamm."),
    Clip("de/ja.wav", "de+m3", 16000, "PCM_16", "Ja."),
    Clip("de/leuchtturm.opus", "de+f3", 48000, "OPUS", LIGHTHOUSE),
    Clip("de/zahlen.flac", "de+m1", 8000, "PCM_16", "Null, eins, zwei, drei, vier, fünf."),
    Clip("en/hello.flac", "en-us+m3", 16000, "PCM_16", "Hello, and welcome aboard."),
    Clip("en/kettle.wav", "en-gb+f4", 24000, "FLOAT", "The kettle is on, come in."),
    Clip("en/market.mp3", "en-us+f1", 22050, None, "Three pounds of plums, please, and one melon."),
    Clip("en/night-train.opus", "en-gb+f3", 24000, "OPUS", NIGHT_TRAIN, speed=168),
    Clip("en/no.flac", "en-gb+m7", 16000, "PCM_24", "No."),
    Clip("en/phone.wav", "en-us+m5", 8000, "PCM_16", "You have one new message."),
    Clip("en/stereo.flac", "en-gb+m2", 44100, "PCM_16", "Left and right are the same.", 2),
    Clip("en/tide.ogg", "en-gb-scotland+f2", 32000, "VORBIS", "The tide waits for nobody.", 2),
    Clip("es/abuela.flac", "es+f3", 16000, "PCM_16", "Mi abuela guarda cartas en una caja azul."),
    Clip("es/carta.opus", "es+f4", 16000, "OPUS", LETTER),
    Clip("es/lluvia.opus", "es-419+m3", 16000, "OPUS", "Mañana va a llover en toda la costa."),
    Clip("es/si.mp3", "es+m1", 16000, None, "Sí, claro."),
    Clip("fi/metsa.ogg", "fi+f2", 16000, "VORBIS", "Metsässä on hiljaista ja lumi peittää polun."),
    Clip("fr/gare.ogg", "fr-fr+f4", 44100, "VORBIS", "Le dernier train part dans dix minutes.", 2),
    Clip("fr/neige.mp3", "fr-fr+m2", 16000, None, SNOW),
    Clip("fr/oui.wav", "fr-fr+m3", 22050, "PCM_24", "Mais oui."),
    Clip("fr/pluie.opus", "fr-fr+f1", 48000, "OPUS", "Il pleut, mais le jardin est content."),
    Clip("it/caffe.mp3", "it+f2", 48000, None, "Un caffè, per favore, e un bicchiere d'acqua.", 2),
    Clip("it/sera.flac", "it+m4", 24000, "PCM_24", "Buona sera a tutti."),
    Clip("nl/fiets.opus", "nl+m2", 24000, "OPUS", "Mijn fiets staat nog bij het station."),
    Clip("pl/rzeka.flac", "pl+f3", 16000, "PCM_16", "Nad rzeką stoi stary młyn, wciąż miele mąkę."),
    Clip("pl/tak.ogg", "pl+m1", 22050, "VORBIS", "Tak, oczywiście."),
    Clip("pt/barco.opus", "pt+f1", 12000, "OPUS", "O barco chega ao porto antes do amanhecer.", 2),
    Clip("pt/obrigado.wav", "pt-br+m3", 11025, "PCM_16", "Muito obrigado pela ajuda."),
    Clip("sv/sno.mp3", "sv+f2", 24000, None, "Snön ligger djup och sjön har frusit."),
    Clip("sv/tack.flac", "sv+m3", 48000, "PCM_16", "Tack så mycket."),
)


def speak(clip: Clip) -> tuple[np.ndarray, int]:
    """Return mono float32 speech, without the silence around it, and its sample rate in Hz."""
    command = ["espeak-ng", "-v", clip.voice, "-s", str(clip.speed), "--stdout", clip.text]
    wav = subprocess.run(command, capture_output=True, check=True).stdout
    audio, rate = soundfile.read(io.BytesIO(wav), dtype="float32")
    loud = np.flatnonzero(np.abs(audio) > 1e-3)
    return audio[loud[0] : loud[-1] + 1], rate


def encode(clip: Clip, audio: np.ndarray) -> bytes:
    """Return the file with 0 for libsndfile's random Ogg serial and for its time stamp."""
    ogg = clip.path.endswith((".opus", ".ogg"))
    file = io.BytesIO()
    container = "OGG" if ogg else Path(clip.path).suffix[1:].upper()
    soundfile.write(file, audio, clip.rate, clip.subtype, format=container)
    data = bytearray(file.getvalue())
    if ogg:
        clear_ogg_serial(data)
    elif clip.subtype == "FLOAT":
        stamp = data.index(b"PEAK") + 12
        data[stamp : stamp + 4] = bytes(4)
    return bytes(data)


def clear_ogg_serial(data: bytearray) -> None:
    """Rewrite the stream's serial and each page's checksum in place (RFC 3533, section 6)."""
    start = 0
    while start < len(data):
        segments = data[start + 26]
        body = sum(data[start + 27 : start + 27 + segments])
        end = start + 27 + segments + body
        data[start + 14 : start + 18] = bytes(4)
        data[start + 22 : start + 26] = bytes(4)
        data[start + 22 : start + 26] = ogg_checksum(data[start:end]).to_bytes(4, "little")
        start = end


def ogg_checksum(page: bytearray) -> int:
    """Return the CRC-32 of polynomial 0x04c11db7; unlike zlib's, not reflected nor inverted."""
    register = 0
    for byte in page:
        register = (register << 8 & 0xFFFFFFFF) ^ CRC_TABLE[register >> 24 ^ byte]
    return register


def crc_entry(byte: int) -> int:
    """Return the part of the checksum that one byte adds."""
    register = byte << 24
    for _ in range(8):
        register = register << 1 ^ (0x104C11DB7 if register >> 31 else 0)
    return register


CRC_TABLE = [crc_entry(byte) for byte in range(256)]


def write(clip: Clip) -> None:
    """Speak a clip into its file."""
    audio, rate = speak(clip)
    # Some voices reach full scale, which a lossy format would exceed.
    audio = 0.8 * soxr.resample(audio, rate, clip.rate)
    if clip.channels == 2:
        # Softer and 2 ms later on the right, so that the channels differ.
        audio = np.stack([audio, 0.5 * np.roll(audio, clip.rate // 500)], axis=1)
    path = HERE / clip.path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(clip, audio))


def describe(clip: Clip) -> dict[str, object]:
    """Return a clip's row of the manifest; the duration is in seconds, as decoded."""
    info = soundfile.info(HERE / clip.path)
    return {
        "path": clip.path,
        "text": clip.text,
        "language": clip.path.partition("/")[0],
        "speaker": clip.voice,
        "gender": "female" if "+f" in clip.voice else "male",
        "duration": round(info.duration, 3),
        "sample_rate": info.samplerate,
        "channels": info.channels,
    }


def main() -> None:
    """Write every clip, then the manifest."""
    for clip in CLIPS:
        write(clip)
    lines = [json.dumps(describe(clip), ensure_ascii=False) + "\n" for clip in CLIPS]
    (HERE / "manifest.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
