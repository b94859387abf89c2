"""Small corpora made on the spot: tones and noise in real files, in real tars."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import soundfile


def tone(seconds: float, rate: int = 16_000, seed: int = 0) -> npt.NDArray[np.float32]:
    """A few gliding tones in noise; every seed another."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    audio = 0.02 * random.standard_normal(len(t))
    for low in random.uniform(80, 1500, 3):
        audio += 0.15 * np.sin(2 * np.pi * (low * t + 40 * t**2))
    return audio.astype(np.float32)


def encode(
    audio: npt.NDArray[Any], rate: int = 16_000, format: str = "FLAC", subtype: str | None = None
) -> bytes:
    """The bytes of a file that holds this audio, (T,) or (T, C)."""
    sink = io.BytesIO()
    soundfile.write(sink, audio, rate, format=format, subtype=subtype)
    return sink.getvalue()


def encode_with_ffmpeg(
    audio: npt.NDArray[np.float32],
    rate: int,
    container: str,
    codec: str,
    codec_options: dict[str, str] | None = None,
    **options: str,
) -> bytes:
    """The bytes of a container with these options; audio is (T,) or (T, 2)."""
    sink, layout = io.BytesIO(), "mono" if audio.ndim == 1 else "stereo"
    planes = np.ascontiguousarray(np.atleast_2d(audio.T))
    with av.open(sink, "w", format=container, options=options) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout, options=codec_options)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        for part in av.AudioResampler(stream.format.name, layout, rate).resample(frame):
            fifo.write(part)
        for part in fifo.read_many(stream.codec_context.frame_size or 1024, partial=True):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return sink.getvalue()


def clip(seconds: float = 1.0, seed: int = 0) -> bytes:
    """FLAC at 16 kHz."""
    return encode(tone(seconds, seed=seed))


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    """A tar with these members, in this order."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def corpus(num_shards: int, clips_per_shard: int, seconds: float = 1.0) -> dict[str, bytes]:
    """Tars by name, with clips of lengths around `seconds` and a JSON each."""
    tars = {}
    for shard in range(num_shards):
        members = []
        for position in range(clips_per_shard):
            seed = shard * clips_per_shard + position
            length = seconds * (0.3 + 1.4 * (seed * 0.618 % 1))
            key = f"{shard:03d}-{position:03d}"
            members += [(f"{key}.flac", clip(length, seed))]
            members += [(f"{key}.json", json.dumps({"text": f"clip {seed}"}).encode())]
        tars[f"shard-{shard:04d}.tar"] = tar_bytes(members)
    return tars


def write_corpus(folder: Path, **sizes: Any) -> list[Path]:
    """Put a corpus into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, data in corpus(**sizes).items():
        (folder / name).write_bytes(data)
        paths.append(folder / name)
    return paths
