"""Opus in Ogg, decoded page by page (RFC 7845)."""

from collections.abc import Iterator, Sequence

import numpy as np

from speechmill.pipeline.audio.containers.ogg import first_packet, last_granule, packet_pages
from speechmill.pipeline.audio.containers.opus import CLOCK, opus_header
from speechmill.pipeline.audio.libopus import LONGEST, OpusDecoder, packet_samples
from speechmill.pipeline.audio.samples import BLOCK, Limits, Samples, Source, check_size
from speechmill.pipeline.blob import Blob
from speechmill.pipeline.errors import TruncatedAudio, UndecodableAudio

_HEADERS = 2  # packets in front of the audio


def read_ogg_opus(links: Sequence[Blob], limits: Limits) -> Source:
    """Decode the links of a chain, of which the first is Opus.

    Raises `UndecodableAudio` for a link whose pages do not hold the samples that they state.
    """
    first = _Link(links[0])
    check_size(first.num_samples, *first.kind, limits, "the pages state")
    return Source(*first.kind, _all_blocks(first, links[1:], limits))


def _all_blocks(first: "_Link", others: Sequence[Blob], limits: Limits) -> Iterator[Samples]:
    yield from first.blocks()
    total = first.num_samples
    for data in others:
        link = _Link(data)
        if link.kind != first.kind:
            raise UndecodableAudio(f"{first.kind} Hz and channels become {link.kind}")
        total += link.num_samples
        check_size(total, *link.kind, limits, "there are")
        yield from link.blocks()


class _Link:
    """One stream, from its header to its end."""

    def __init__(self, data: Blob):
        header = opus_header(first_packet(data))
        if header is None:
            raise UndecodableAudio("Opus is followed by a stream of another coding")
        self.kind = (header.sample_rate, header.num_channels)
        self._data, self._header = data, header
        self._clock = CLOCK // header.sample_rate  # ticks of a sample
        end = last_granule(data)
        self._start = self._first_granule(end)
        self.num_samples = max(0, end - self._start - header.pre_skip) // self._clock

    def blocks(self) -> Iterator[Samples]:
        """The samples, without those before and after the audio."""
        begin = self._header.pre_skip // self._clock
        end, position = begin + self.num_samples, 0
        for block_TC in self._decoded(end):
            wanted_TC = block_TC[max(0, begin - position) : max(0, end - position)]
            position += len(block_TC)
            if len(wanted_TC):
                yield wanted_TC
        if self.num_samples and position < end:
            raise TruncatedAudio(f"the pages state {end} samples, the packets hold {position}")

    def _decoded(self, num_samples: int) -> Iterator[Samples]:
        decoder = OpusDecoder(self._header, self.kind[0])
        shape = (max(min(BLOCK, num_samples), 0) + LONGEST, self.kind[1])
        block_TC, held = np.empty(shape, np.float32), 0
        stated = end = before = self._start  # the granule of a page, and where its packets end
        for packets, granule in self._audio_pages():
            if stated != end:
                raise UndecodableAudio(f"an Ogg page ends at {stated}, its packets at {end}")
            before, stated = end, granule
            while packets:
                sizes = decoder.decode(packets, block_TC[held:])
                held += sum(sizes)
                end += sum(sizes) * self._clock
                packets = packets[len(sizes) :]
                if packets:
                    yield block_TC[:held]
                    block_TC, held = np.empty(shape, np.float32), 0
        if stated < before:
            raise UndecodableAudio(f"the last Ogg page ends at {stated}, the others at {before}")
        yield block_TC[:held]

    def _audio_pages(self) -> Iterator[tuple[list[bytes], int]]:
        headers = _HEADERS
        for packets, granule in packet_pages(self._data):
            audio = packets[headers:]
            headers -= min(headers, len(packets))
            if audio:
                yield audio, granule

    def _first_granule(self, end: int) -> int:
        """Where the audio begins: in a part of a longer recording not at 0, and maybe before it.

        The audio of a single page may end within its packets, but then it begins at 0.
        """
        packets, granule = next(self._audio_pages(), ([], 0))
        start = granule - sum(map(packet_samples, packets))
        return start if granule < end else max(0, start)
