"""How fast one core decodes each format to 16 kHz mono: ours, soundfile, PyAV and torchcodec.

    python -m tests.bench.decode [--seconds 10] [--clips 8] [--rounds 7] [--only Opus]
                                 [--against FOLDER]

Ours is what a worker runs: all checks of the container, the filters, the clip of the codec. The
others only decode, mix and resample by soxr. Each is a process of its own; they take turns, row by
row and round by round. Times are CPU time. `--against` adds another checkout of Speechmill.
torchcodec is optional: `pip install --no-deps torchcodec`, and FFmpeg's libraries from the system.
"""

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import soxr

from tests.corpus import encode, encode_with_ffmpeg

ROOT = Path(__file__).parents[2]
RATE = 16_000  # Hz, of the codec
Decode = Callable[[bytes], Any]

_LOW, _HIGH = {"b": "64000"}, {"b": "128000"}  # bit/s
# Container, coding, rate, channels, and options of FFmpeg; those without are libsndfile's.
ROWS: dict[str, tuple[str, str, int, int, dict[str, str]]] = {
    "WAV, 16 kHz": ("WAV", "PCM_16", 16_000, 1, {}),
    "FLAC, 16 kHz": ("FLAC", "PCM_16", 16_000, 1, {}),
    "FLAC, 44.1 kHz": ("FLAC", "PCM_16", 44_100, 1, {}),
    "FLAC, 24 bit, 48 kHz": ("FLAC", "PCM_24", 48_000, 1, {}),
    "MP3, 44.1 kHz": ("mp3", "libmp3lame", 44_100, 1, _LOW),
    "MP3, 44.1 kHz, stereo": ("mp3", "libmp3lame", 44_100, 2, _HIGH),
    "Opus, 48 kHz": ("ogg", "libopus", 48_000, 1, _LOW),
    "Opus, 48 kHz, stereo": ("ogg", "libopus", 48_000, 2, _HIGH),
    "Opus of 16 kHz": ("ogg", "libopus", 16_000, 1, {"b": "24000", "application": "voip"}),
    "Vorbis, 44.1 kHz": ("OGG", "VORBIS", 44_100, 1, {}),
    "M4A (AAC), 44.1 kHz": ("ipod", "aac", 44_100, 1, _LOW),
    "M4A (AAC), 44.1 kHz, stereo": ("ipod", "aac", 44_100, 2, _HIGH),
    "WebM (Opus), 48 kHz": ("webm", "libopus", 48_000, 1, _LOW),
    "WebM (Opus), 48 kHz, stereo": ("webm", "libopus", 48_000, 2, _HIGH),
}


def write_clips(folder: Path, seconds: float, clips: int, only: str = "") -> None:
    """Write clips of the sample speech, with a little noise, in the format of every row.

    `only` leaves out the rows whose name does not begin with it.
    """
    lines = (ROOT / "samples" / "manifest.jsonl").read_text().splitlines()
    speech_T = np.concatenate([_speech(ROOT / "samples" / json.loads(s)["path"]) for s in lines])
    random = np.random.default_rng(0)
    size = int(seconds * 48_000)
    for number in range(clips):
        start = random.integers(len(speech_T) - size - 4800)
        left_T, right_T = (speech_T[start + at : start + at + size] for at in (0, 4800))
        clip_TC = np.stack([left_T, 0.7 * left_T + 0.3 * right_T], axis=1)
        clip_TC = clip_TC + 0.002 * random.standard_normal(clip_TC.shape)
        for name, (container, codec, rate, channels, options) in ROWS.items():
            if not name.startswith(only):
                continue
            audio_TC = soxr.resample(clip_TC[:, :channels], 48_000, rate).astype(np.float32)
            audio = audio_TC[:, 0] if channels == 1 else audio_TC
            if options:
                data = encode_with_ffmpeg(audio, rate, container, codec, options)
            else:
                data = encode(audio, rate, container, codec)
            (folder / f"{name}-{number:02d}").write_bytes(data)


def _speech(path: Path) -> Any:
    audio_TC, rate = soundfile.read(path, always_2d=True)
    return soxr.resample(audio_TC[:, 0], rate, 48_000)


def _speechmill() -> Decode:
    from speechmill.codecs import codec_info
    from speechmill.pipeline.audio.recordings import Recordings, RecordingSettings
    from speechmill.pipeline.audio.segment import Clip

    recordings = Recordings(RecordingSettings(), [codec_info("null")])

    def decode(data: bytes) -> Any:
        [clip] = recordings.clips(data)
        assert isinstance(clip, Clip), clip
        return clip.audio_T

    return decode


def _soundfile() -> Decode:
    def decode(data: bytes) -> Any:
        audio_TC, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
        return _to_mono(audio_TC.T, rate)

    return decode


def _pyav() -> Decode:
    def decode(data: bytes) -> Any:
        with av.open(io.BytesIO(data)) as file:
            frames = [frame.to_ndarray() for frame in file.decode(audio=0)]
            rate, channels = file.streams.audio[0].rate, file.streams.audio[0].channels
        audio = np.concatenate(frames, axis=1)
        if audio.dtype != np.float32:
            audio = audio.astype(np.float32) / np.float32(-np.iinfo(audio.dtype).min)
        return _to_mono(audio.reshape(-1, channels).T if len(audio) < channels else audio, rate)

    return decode


def _torchcodec() -> Decode:
    import torch
    from torchcodec.decoders import AudioDecoder

    torch.set_num_threads(1)

    def decode(data: bytes) -> Any:
        samples = AudioDecoder(data).get_all_samples()
        return _to_mono(samples.data.numpy(), samples.sample_rate)

    return decode


def _to_mono(audio_CT: Any, rate: int) -> Any:
    mono_T = audio_CT[0] if len(audio_CT) == 1 else audio_CT.mean(axis=0)
    return mono_T if rate == RATE else soxr.resample(mono_T, rate, RATE)


SYSTEMS: dict[str, Callable[[], Decode]] = {
    "speechmill": _speechmill,
    "soundfile": _soundfile,
    "pyav": _pyav,
    "torchcodec": _torchcodec,
}


def serve(system: str) -> None:
    """Decode the row of each line of stdin; answer with CPU seconds, or with null."""
    decode = SYSTEMS[system]()
    print("ready", flush=True)
    for line in sys.stdin:
        paths = json.loads(line)
        try:
            files = [Path(path).read_bytes() for path in paths]
            started = time.process_time()
            sizes = [len(decode(data)) for data in files]
            print(json.dumps([time.process_time() - started, sum(sizes)]), flush=True)
        except Exception as error:  # the system may not know the format
            print(json.dumps([None, repr(error)[:200]]), flush=True)


class Worker:
    """A system in a process of its own."""

    def __init__(self, name: str, tree: Path):
        sources = [str(tree / part) for part in ("codecs", "pipeline", "jobs")]
        path = os.pathsep.join([*sources, os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "tests.bench.decode", "--serve", name]
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        self.works = self.process.stdout.readline() == "ready\n"

    def why_not(self) -> str:
        """The last line of a process that did not start."""
        assert self.process.stderr
        return (self.process.stderr.read().strip().splitlines() or ["ended"])[-1]

    def seconds(self, paths: list[str]) -> float | None:
        """CPU seconds for the clips, None if the system does not decode them."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(paths), file=self.process.stdin, flush=True)
        seconds, _ = json.loads(self.process.stdout.readline())
        return None if seconds is None else float(seconds)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def measure(workers: dict[str, Worker], folder: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Median CPU seconds of each row and each system that decodes it."""
    medians: dict[str, dict[str, float]] = {}
    for name in ROWS:
        paths = sorted(str(path) for path in folder.iterdir() if path.name[:-3] == name)
        if not paths:
            continue
        times: dict[str, list[float]] = {system: [] for system in workers}
        for round_ in range(rounds + 1):
            for system, worker in workers.items():
                seconds = worker.seconds(paths)
                if round_ and seconds is not None:  # the first round warms up
                    times[system].append(seconds)
        medians[name] = {s: statistics.median(own) for s, own in times.items() if own}
    return medians


def main() -> None:
    """Print x real time of each system, and the ratio of ours to the best other one."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clips", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", default="", help="rows whose name begins so")
    parser.add_argument("--against", type=Path)
    parser.add_argument("--serve", choices=SYSTEMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_clips(folder, arguments.seconds, arguments.clips, arguments.only)
        workers = {name: stack.enter_context(Worker(name, ROOT)) for name in SYSTEMS}
        if arguments.against:
            workers["before"] = stack.enter_context(Worker("speechmill", arguments.against))
        for name, worker in list(workers.items()):
            if not worker.works:
                print(f"{name} is absent: {worker.why_not()}")
                del workers[name]
        table = measure(workers, folder, arguments.rounds)
    print_table(table, list(workers), arguments.seconds * arguments.clips)


def print_table(table: dict[str, dict[str, float]], systems: list[str], seconds: float) -> None:
    """One line of Markdown for each row."""
    print(f"| x real time per core | {' | '.join(systems)} | ours / best other |")
    print(f"|---|{'---|' * len(systems)}---|")
    for row, times in table.items():
        speeds = [f"{seconds / times[s]:,.0f}" if s in times else "-" for s in systems]
        best = min((t for s, t in times.items() if s not in ("speechmill", "before")), default=None)
        ratio = f"{best / times['speechmill']:.2f}" if best else "-"
        print(f"| {row} | {' | '.join(speeds)} | {ratio} |")


if __name__ == "__main__":
    main()
