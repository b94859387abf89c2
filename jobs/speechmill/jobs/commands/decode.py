"""`speechmill decode`: the tokens of a dataset as audio."""

import io
import json
from collections.abc import Iterator

import pyarrow as pa

from speechmill.codecs import Codec
from speechmill.jobs.display import Display, require_files
from speechmill.jobs.existing_dataset import (
    check_codebooks,
    dataset_config,
    load_dataset_codec,
    open_dataset,
)
from speechmill.pipeline.audio.flac import encode_flac
from speechmill.pipeline.dataset.checks import check_code_values
from speechmill.pipeline.dataset.decode import decode_rows
from speechmill.pipeline.dataset.layout import readable
from speechmill.pipeline.dataset.names import file_names
from speechmill.pipeline.dataset.section_rows import read_sections
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.shards.webdataset import SampleWriter
from speechmill.pipeline.storage import Storage, join

_DECODED = ["key", "codes", "num_frames", "num_codebooks", "start", "end", "channel", "text"]


def decode_dataset(
    root: str,
    output: str,
    *,
    codebooks: int | None,
    limit: int | None,
    shards: bool,
    overrides: list[str],
    display: Display,
) -> None:
    """Write a FLAC file for each utterance, or a tar for each shard; finished tars are skipped.

    `codebooks` decodes only the first few; `limit` is the largest number of utterances. Raises
    `InputError` for a limit with `shards`, because a tar that it shortens would count as finished.
    """
    if shards and limit is not None:
        raise InputError("--limit would leave a tar without its last clips; drop it, or --shards")
    dataset = open_dataset(root, overrides)
    codec, _ = load_dataset_codec(dataset, dataset_config(dataset, overrides))
    num_codebooks = check_codebooks(codebooks, codec.info.num_codebooks, codec.info.name)
    display.line(f"codec    {codec.info.title}, {codec.info.output_sample_rate} Hz")
    output = dataset.storage.absolute(output)
    dataset.refuse_inside(output)
    done = {info.url for info in dataset.storage.list_files(output)} if shards else set()
    skip = {url.removeprefix(join(output, "")).removesuffix(".tar") for url in done}
    count = 0
    for section, table in read_sections(dataset, _DECODED, skip):
        if limit == count:
            break
        with readable(dataset.part_url(section.file)):
            for _, message in check_code_values(table, codec.info):
                raise ValueError(message)
            table = table.slice(0, None if limit is None else limit - count)
            clips = _clips(table, codec, num_codebooks)
            write = _write_tar if shards else _write_files
            last = write(clips, join(output, section.part), dataset.storage)
        require_files([last] if last else [], dataset.storage)
        count += len(table)
        display.line(f"{section.part}  {len(table)} utterances")


def _clips(table: pa.Table, codec: Codec, codebooks: int) -> Iterator[tuple[str, bytes, str]]:
    """Yield the name, the FLAC file and the text of every row."""
    names = file_names(table, ".flac")
    for row, audio_T in decode_rows(table, codec, codebooks):
        flac = encode_flac(audio_T, codec.info.output_sample_rate)
        yield names[row], flac, table["text"][row].as_py() or ""


def _write_files(
    clips: Iterator[tuple[str, bytes, str]], folder: str, storage: Storage
) -> str | None:
    """Return the URL of the last file; None for a part without rows."""
    url = None
    for name, flac, _ in clips:
        url = join(folder, f"{name}.flac")
        storage.put(url, flac)
    return url


def _write_tar(clips: Iterator[tuple[str, bytes, str]], stem: str, storage: Storage) -> str:
    """Return the URL of the tar."""
    sink = io.BytesIO()
    with SampleWriter(sink) as tar:
        for name, flac, text in sorted(clips):
            members = {"flac": flac}
            if "." in name.rpartition("/")[2]:
                # A key ends at the first dot, unless its audio and another member share more.
                members["json"] = json.dumps({"name": name}).encode()
            tar.write(name, members | ({"txt": text.encode()} if text else {}))
    storage.put(f"{stem}.tar", sink.getvalue())
    return f"{stem}.tar"
