"""Audio files to pack, from a folder: which files become which sample, and which are left out.

The text of `x.wav` is `x.txt`, or as in LibriTTS `x.normalized.txt` or `x.original.txt`, or as in
LibriSpeech a line `x TEXT` of a `.trans.txt` in its folder; its metadata is `x.json`. The first of
these is taken, and the others are named. No audio is read here.
"""

import posixpath
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from speechmill.pipeline.audio.containers.recognize import OTHER_SUFFIXES
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.filesystems import FileInfo
from speechmill.pipeline.links import HIDDEN, PassedOver
from speechmill.pipeline.shards.manifests import MANIFESTS
from speechmill.pipeline.shards.sources import (
    SIDECARS,
    Gathered,
    Member,
    Reach,
    SampleFiles,
    split_suffix,
)
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.text import decode_text, replace_escaped

NOT_AUDIO = "not audio by its name"
ALONE = "beside no audio file of its name"
NO_LINE = "a transcript of which no line names an audio file in its folder"
ALONE_LINE = "a line of no audio file in its folder"
WITHOUT_TEXT = "a line without a text"
LARGE = "a transcript that is too large"
LESS_USUAL = "beside audio of its name in a more usual format"

_READERS = 16  # concurrent reads of transcripts
_LARGEST_TRANSCRIPT = 2**26  # bytes of one .trans.txt
# Kinds of text, the best one first.
_TEXT, _NORMALIZED, _ORIGINAL, _LINE = (".txt", ".normalized.txt", ".original.txt", ".trans.txt")
_TEXTS = (_TEXT, _NORMALIZED, _ORIGINAL, _LINE)


@dataclass(frozen=True, slots=True)
class _Sidecar:
    """A text or the metadata of an audio file."""

    suffix: str  # in the tar
    rank: int  # the lowest one is taken
    label: str
    origin: str  # file, or line of a file
    content: FileInfo | bytes


@dataclass(slots=True)
class _Stem:
    """The files of one path without suffix."""

    audio: dict[str, FileInfo] = field(default_factory=dict)  # by URL
    sidecars: list[_Sidecar] = field(default_factory=list)


def files_of_folder(
    root: str, extensions: Sequence[str], reach: Reach, storage: Storage
) -> Gathered:
    """A sample for each audio file below a folder, with its text and metadata.

    Hidden files are passed over.
    """
    return _Folder(root, extensions, storage).gather(reach)


class _Folder:
    def __init__(self, root: str, extensions: Sequence[str], storage: Storage):
        self._root = root
        self._extensions = extensions
        self._storage = storage
        self._stems: dict[str, _Stem] = {}  # of audio, by the path below the root
        self._transcripts: list[tuple[str, str, FileInfo]] = []  # folder below the root, URL, file
        self._passed_over: list[PassedOver] = []

    def gather(self, reach: Reach) -> Gathered:
        found, self._passed_over = self._storage.walk(self._root, reach.links)
        others: list[tuple[str, str, FileInfo]] = []
        for each in found:
            if each.url == self._root:
                raise InputError(
                    f"{each.url} is not a folder; a manifest ends in {', '.join(MANIFESTS)}"
                )
            path = each.url[len(self._root) :].lstrip("/")
            stem, suffix = split_suffix(path)
            if any(part.startswith(".") for part in path.split("/")):
                self._pass_over(each.url, HIDDEN)
            elif suffix in self._extensions:
                self._stems.setdefault(stem, _Stem()).audio[each.url] = each.file
            elif suffix in SIDECARS:
                others.append((path, each.url, each.file))
            else:
                named = f"{NOT_AUDIO}, .{suffix}" if suffix else f"{NOT_AUDIO}, no extension"
                self._pass_over(each.url, named)
        if not self._stems:
            extensions = ", .".join(self._extensions)
            raise InputError(f"no audio (.{extensions}) in {self._root}; is the folder right?")
        for other in others:
            self._add_sidecar(*other)
        self._read_transcripts()
        samples = [one for stem, files in self._stems.items() for one in self._samples(stem, files)]
        return Gathered(samples, sorted(self._passed_over, key=lambda one: one.url))

    def _add_sidecar(self, path: str, url: str, file: FileInfo) -> None:
        stem, suffix = split_suffix(path)
        if files := self._stems.get(stem):
            files.sidecars.append(_Sidecar(suffix, 0, f".{suffix}", url, file))
            return
        outer, inner = split_suffix(stem)
        label = f".{inner}.{suffix}"
        if label == _LINE and file.size > _LARGEST_TRANSCRIPT:
            self._pass_over(url, LARGE)
        elif label == _LINE:
            self._transcripts.append((posixpath.dirname(path), url, file))
        elif label in _TEXTS and (files := self._stems.get(outer)):
            files.sidecars.append(_Sidecar(suffix, _TEXTS.index(label), label, url, file))
        else:
            self._pass_over(url, ALONE)

    def _read_transcripts(self) -> None:
        with ThreadPoolExecutor(_READERS) as pool:
            urls = [file.url for _, _, file in self._transcripts]
            contents = pool.map(self._storage.read_bytes, urls)
            for (folder, url, _), content in zip(self._transcripts, contents, strict=True):
                self._add_lines(folder, url, decode_text(content)[0])

    def _add_lines(self, folder: str, url: str, text: str) -> None:
        """Give each line of a transcript of utterances, `<name> <text>`, to its audio."""
        taken, left = 0, list[PassedOver]()
        for number, line in enumerate(text.split("\n"), start=1):
            if not (words := line.split(maxsplit=1)):
                continue
            origin = f"{url}, line {number}"
            files = self._stems.get(posixpath.join(folder, words[0]))
            if files and len(words) > 1:
                said = words[1].rstrip().encode()
                files.sidecars.append(_Sidecar("txt", _TEXTS.index(_LINE), _LINE, origin, said))
                taken += 1
            else:
                left.append(PassedOver(origin, WITHOUT_TEXT if files else ALONE_LINE))
        self._passed_over += left if taken else [PassedOver(url, NO_LINE)]

    def _samples(self, stem: str, files: _Stem) -> Iterator[SampleFiles]:
        key = replace_escaped(stem).replace(".", "_")
        sidecars = [
            Member(f"{key}.{one.suffix}", one.content)
            for suffix in SIDECARS
            for one in self._chosen([one for one in files.sidecars if one.suffix == suffix])
        ]
        usual = [url for url in files.audio if split_suffix(url)[1] not in OTHER_SUFFIXES]
        for url, file in files.audio.items():
            if usual and url not in usual:
                self._pass_over(url, LESS_USUAL)
            else:
                member = Member(f"{key}.{split_suffix(url)[1]}", file)
                yield SampleFiles.of(key, [member, *sidecars], url)

    def _chosen(self, sidecars: list[_Sidecar]) -> list[_Sidecar]:
        """The best one of a kind, if there is one; the others are passed over."""
        ordered = sorted(sidecars, key=lambda one: one.rank)
        for other in ordered[1:]:
            self._pass_over(other.origin, f"the {ordered[0].label} of the same audio is taken")
        return ordered[:1]

    def _pass_over(self, url: str, reason: str) -> None:
        self._passed_over.append(PassedOver(url, reason))
