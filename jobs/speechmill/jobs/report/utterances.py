"""Utterances to listen to: the original from its tar beside what the codec makes of its tokens."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from speechmill.codecs import Codec, CodecInfo
from speechmill.codecs.errors import CodecError
from speechmill.jobs.existing_dataset import dataset_config, load_dataset_codec
from speechmill.jobs.report.parts import FoundPart
from speechmill.jobs.report.sample import Place, open_part, read_group
from speechmill.jobs.report.sound import flac_url, spectrogram_url
from speechmill.jobs.report.wording import ending, limited
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.audio.isolation import kept_process
from speechmill.pipeline.audio.samples import Samples, to_float
from speechmill.pipeline.dataset.layout import DAMAGE, TokenDataset
from speechmill.pipeline.errors import SpeechmillError
from speechmill.pipeline.foreign import Roots
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.tokenize.batching import ALONE, Batch
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation, decode_shard
from speechmill.pipeline.tokenize.schema import channels_of

_SOUND_BYTES = 3_400_000  # of all players of a page
_BYTES_PER_SAMPLE = 1.5  # of speech in 16-bit FLAC and base64
_MARGIN = 1.0  # s decoded after what is played, because codecs look ahead
_LONGEST = 20.0  # s that are played
_LAST_SECOND = 1e9  # of no recording
_COLUMNS = [
    *("key", "codes", "num_frames", "num_codebooks", "start", "end", "sample_rate"),
    *("audio_xxh3", "text", "shard", "index", "channel"),
]
_TYPES: dict[type, tuple[str, ...]] = {
    str: ("key", "shard"),
    int: ("num_frames", "sample_rate", "audio_xxh3", "index"),
    float: ("start", "end"),
}

Row = dict[str, Any]
Identity = tuple[int, float, int | None]  # index, start and channel of a row of a part
Sounds = dict[Identity, Samples]


@dataclass(frozen=True, slots=True)
class Player:
    """One version of an utterance."""

    title: str
    source: str  # data URL, FLAC
    picture: str  # data URL, PNG
    top: str  # highest frequency of the picture


@dataclass(slots=True)
class Utterance:
    """A row to look at and to listen to; `played` is how many of its seconds."""

    row: Row
    table: pa.Table  # of this row
    part: FoundPart
    played: float = 0.0
    players: list[Player] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # why a player is missing

    @property
    def key(self) -> str:
        return limited(self.row["key"], 120)

    @property
    def text(self) -> str:
        return limited(self.row["text"] or "", 300)

    @property
    def about(self) -> str:
        row, cut = self.row, 0 < self.played < self.seconds - 0.01
        channel = "" if row["channel"] is None else f", channel {row['channel']}"
        length = f"{self.seconds:.2f} s" + (f", the first {self.played:.1f} s" if cut else "")
        source = f"{row['sample_rate']:,} Hz{channel}"
        return f"{length} · {row['num_frames']:,} frames · {source} · {ending(self.part.name, 48)}"

    @property
    def identity(self) -> Identity:
        return self.row["index"], self.row["start"], self.row["channel"]

    @property
    def seconds(self) -> float:
        return float(self.row["end"] - self.row["start"])


@dataclass(slots=True)
class Listening:
    """The utterances of a page, and why some have no original or no reconstruction."""

    utterances: list[Utterance] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def listen(
    dataset: TokenDataset,
    places: Sequence[Place],
    sources: Sequence[str],
    overrides: list[str],
    faults: list[str],
) -> Listening:
    """Read the rows, decode their tokens, and read their recordings below `sources`.

    No tar is read elsewhere. What fails is a note; the rest is there.
    """
    found = Listening(list(_rows(dataset, places, faults)))
    if not found.utterances:
        return found
    try:
        config = dataset_config(dataset, overrides)
        info = config.codec.info()
    except (SpeechmillError, CodecError, *DAMAGE) as error:
        found.notes.append(f"Nothing is played: {limited(error, 500)}")
        return found
    _limit_lengths(found.utterances, info, 2 if sources else 1)
    roots = Roots.of(sources, dataset.storage)
    sounds = _originals(dataset, found, roots, config.decode_settings(), info) if sources else {}
    codec = _codec(dataset, config, found.notes)
    top = max(info.sample_rate, info.output_sample_rate) / 2
    for place, one in enumerate(found.utterances):
        if (original_T := sounds.get(place)) is not None:
            one.players.append(_player("original", original_T, info.sample_rate, top))
        if codec:
            _reconstruct(one, codec, top)
    return found


def _rows(dataset: TokenDataset, places: Sequence[Place], faults: list[str]) -> Iterator[Utterance]:
    for place in places:
        try:
            file = open_part(dataset.storage, place.part)
            table = read_group(file, place.group, _COLUMNS).slice(place.row, 1)
            [row] = table.to_pylist()
            _check_types(row)
            if not 0 <= row["start"] < row["end"] < _LAST_SECOND:
                raise ValueError(f"a row from {row['start']} to {row['end']} s")
            yield Utterance(row | {"channel": channels_of(table)[0]}, table, place.part)
        except (SpeechmillError, OSError, *DAMAGE) as error:
            faults.append(f"tokens/{place.part.name}.parquet: {type(error).__name__}: {error}")


def _check_types(row: Row) -> None:
    for kind, names in _TYPES.items():
        for name in names:
            if type(row[name]) is not kind:
                raise TypeError(f"{name} of a row is {type(row[name]).__name__}")


def _limit_lengths(utterances: Sequence[Utterance], info: CodecInfo, versions: int) -> None:
    """Share the bytes of a page out: as much of each utterance as all can have."""
    rate = info.output_sample_rate + (info.sample_rate if versions == 2 else 0)
    left, waiting = _SOUND_BYTES / _BYTES_PER_SAMPLE / rate, len(utterances)
    for one in sorted(utterances, key=lambda one: one.seconds):
        one.played = min(one.seconds, left / waiting, _LONGEST)
        left, waiting = left - one.played, waiting - 1


def _codec(dataset: TokenDataset, config: TokenizeConfig, notes: list[str]) -> Codec | None:
    """Return the codec of the dataset; None, with a note, if it cannot be loaded here."""
    try:
        return load_dataset_codec(dataset, config)[0]
    # Weights may be missing, too large for this machine, or the network away.
    except (SpeechmillError, CodecError, OSError, RuntimeError, MemoryError, ImportError) as error:
        reason = limited(f"{type(error).__name__}: {error}", 500)
        notes.append(f"There are no reconstructions, because the codec is not loaded: {reason}")
        return None


def _reconstruct(one: Utterance, codec: Codec, top: float) -> None:
    from speechmill.pipeline.dataset.decode import decode_rows

    try:
        rate, books = codec.info.output_sample_rate, codec.info.num_codebooks
        [(_, audio_T)] = decode_rows(_beginning(one, codec.info), codec, books)
        audio_T = audio_T[: round(one.played * rate)]
        one.players.append(_player("reconstruction", audio_T, rate, top))
    except (CodecError, RuntimeError, MemoryError, *DAMAGE) as error:
        one.notes.append(f"not decoded: {limited(f'{type(error).__name__}: {error}', 300)}")


def _beginning(one: Utterance, info: CodecInfo) -> pa.Table:
    """Return the row, cut to what is played and a margin."""
    frames = one.row["num_frames"]
    wanted = min(frames, info.num_frames(round((one.played + _MARGIN) * info.sample_rate)))
    codes = one.table["codes"].combine_chunks().flatten()
    if len(codes) != frames * info.num_codebooks:
        raise ValueError(f"{len(codes)} codes for {frames} frames of {info.num_codebooks}")
    cut = {
        "codes": pa.array([codes.slice(0, wanted * info.num_codebooks)], one.table["codes"].type),
        "num_frames": pa.array([wanted], pa.int32()),
        "start": pa.array([0.0]),
        "end": pa.array([min(one.seconds, one.played + _MARGIN)]),
    }
    return pa.table(cut)


def _player(title: str, audio_T: Samples, rate: int, top: float) -> Player:
    audio_T = np.nan_to_num(audio_T if len(audio_T) else np.zeros(1, np.float32))
    picture = spectrogram_url(audio_T, rate, top)
    return Player(title, flac_url(audio_T, rate), picture, f"{top / 1000:g} kHz")


def _originals(
    dataset: TokenDataset,
    found: Listening,
    roots: Roots,
    settings: DecodeSettings,
    info: CodecInfo,
) -> dict[int, Samples]:
    """Return the audio that the codec was given, by position of the utterance."""
    by_shard: dict[str, dict[Identity, int]] = defaultdict(dict)
    for place, one in enumerate(found.utterances):
        by_shard[one.row["shard"]][one.identity] = place
    sounds: dict[int, Samples] = {}
    with kept_process():  # a recording that crashes its decoder costs only itself
        for url, places in by_shard.items():
            wanted = [found.utterances[place] for place in places.values()]
            heard, reason = _of_shard(dataset, url, wanted, roots, settings, info)
            sounds |= {places[identity]: audio_T for identity, audio_T in heard.items()}
            for one in wanted:
                if one.identity not in heard:
                    one.notes.append(f"no original: {reason}")
    return sounds


def _of_shard(
    dataset: TokenDataset,
    url: str,
    wanted: Sequence[Utterance],
    roots: Roots,
    settings: DecodeSettings,
    info: CodecInfo,
) -> tuple[Sounds, str]:
    """Read a tar until all of its wanted rows are found; says why some are not."""
    left, heard = {one.identity: one for one in wanted}, Sounds()
    try:
        if not roots.hold(url):
            return heard, f"{ending(url)} is not below --source"
        # As it is now: what counts is that it holds the recording of the row.
        tar = dataset.storage.info(url)
        shard = Shard(tar.url, tar.size, tar.etag)
        alone, indices = replace(settings, batch=ALONE), {one.row["index"] for one in wanted}
        for batch in decode_shard(shard, dataset.storage, alone, [info], indices, Isolation.FULL):
            if isinstance(batch, Batch):
                [row] = batch.rows.to_pylist()
                one = left.pop((row["index"], row["start"], row["channel"]), None)
                if one and row["audio_xxh3"] == one.row["audio_xxh3"]:
                    heard[one.identity] = _heard(batch, one, info)
            if not left:
                break
    except (SpeechmillError, CodecError, OSError, *DAMAGE) as error:
        return heard, limited(error, 300)
    return heard, "the tar does not hold this recording any more"


def _heard(batch: Batch, one: Utterance, info: CodecInfo) -> Samples:
    """Return what is played of a row, without samples that the codec was given before it."""
    first = int(batch.first_frame_B[0]) * info.hop_length
    return to_float(batch.audio_N)[first : first + round(one.played * info.sample_rate)]
