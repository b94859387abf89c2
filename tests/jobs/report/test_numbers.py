"""The numbers of a report: where bars and axes are, and what is chosen by chance."""

import struct
import zlib

import numpy as np
import pytest

from speechmill.jobs.report.charts import Tick, histogram, scale, spread, thinned
from speechmill.jobs.report.logs import Commit, Run
from speechmill.jobs.report.parts import FoundPart, sampled
from speechmill.jobs.report.sample import Group, choose_utterances, codebook_sizes
from speechmill.jobs.report.sound import spectrogram_png
from speechmill.jobs.report.timeline import (
    Span,
    throughput,
    time_axis,
    time_ticks,
    working_spans,
)
from speechmill.jobs.report.token_charts import codebook_chart
from speechmill.jobs.report.wording import audio_length, ending, lasted, limited, share, short
from speechmill.jobs.report.work import slowest, stages_of
from speechmill.pipeline.quality.codebook_usage import CodeCounts
from tests.corpus import tone


def commit(time=0.0, shard="a", audio=60.0, **seconds):
    known = {"encode": 1.0, "starved": 0.5, "decode": 2.0, "decode_cpu": 1.0}
    measured = {"read": 0.5, "write": 0.25}
    return Commit(time, shard, 1, audio, **(known | measured | seconds), rejects={})


def test_a_histogram_counts_every_value_once_in_bins_of_a_round_width():
    values_N = np.concatenate([np.arange(2000) / 100 + 0.005, [500.0]])
    found = histogram(values_N)
    assert (found.width, found.end, found.beyond) == (0.5, 20.0, 1)
    assert found.counts == [50] * 40
    assert sum(histogram(np.full(7, 3.0)).counts) == 7
    assert histogram(np.empty(0)).counts == []


@pytest.mark.parametrize("top", [0.0, 1e-9, 0.3, 1.0, 7.3, 99.9, 1e12])
def test_an_axis_holds_its_largest_value_and_has_few_ticks(top):
    end, ticks = scale(top)
    assert end >= top
    assert (ticks[0].at, ticks[-1].at) == (0.0, 1.0)
    assert 2 <= len(ticks) <= 6


def test_labels_never_overlap_and_fewer_are_shown_on_narrow_screens():
    kept = spread([Tick(at, str(at)) for at in (0, 4, 12, 25, 31, 99)], gap=10, narrow_gap=30)
    assert [tick.at for tick in kept] == [0, 12, 25, 99]
    assert [tick.at for tick in kept if not tick.minor] == [0, 99]


def test_a_long_gap_between_runs_is_a_narrow_band_that_says_how_long_it_is():
    runs = [Run("a", started=0.0, ended=100.0), Run("b", started=80.0, ended=200.0)]
    runs += [Run("c", started=90_000.0, ended=90_200.0), Run("d")]
    working = working_spans(runs)
    assert working == [Span(0.0, 200.0), Span(90_000.0, 90_200.0)]
    axis = time_axis(working)
    [band] = axis.bands
    assert (band.x, band.width) == (pytest.approx(47.5), pytest.approx(5.0))
    assert band.label == "nothing ran for 1 d"
    assert [round(axis.at(t), 1) for t in (0, 100, 200, 50_000, 90_000, 90_200)] == [
        *(0.0, 23.8, 47.5, 47.5),
        *(52.5, 100.0),
    ]
    assert all(0 <= tick.at <= 100 for tick in time_ticks(axis))


def test_a_short_gap_is_to_scale_and_seen():
    axis = time_axis([Span(0.0, 500.0), Span(520.0, 1000.0)])
    [band] = axis.bands
    assert (band.x, band.width) == (pytest.approx(50.0), pytest.approx(2.0))


def test_the_throughput_of_all_bins_is_the_audio_of_all_commits():
    spans = [Span(0.0, 90.0), Span(1000.0, 1010.0)]
    commits = [(float(time), 30.0) for time in range(90)] + [(1010.0, 100.0)]
    bins = throughput(spans, commits)
    assert sum(bin.audio for bin in bins) == pytest.approx(90 * 30 + 100)
    assert sum(bin.seconds for bin in bins) == pytest.approx(100)
    assert all(bin.start + bin.seconds <= 1010.001 for bin in bins)
    assert bins[0].rate == pytest.approx(30.0, rel=0.5)


def test_reading_and_decoding_are_told_apart_where_the_log_does():
    early = commit(read=None, write=None)
    times = {stage.name: stage.seconds for stage in stages_of([commit(), commit(), early])}
    assert times == {
        "read": 1.0,
        "decode": 3.0,
        "read and decode": 2.0,
        "encode": 3.0,
        "write": 0.5,
        "starved": 1.5,
    }


def test_the_slowest_shards_are_those_with_the_most_work_for_a_second_of_audio():
    commits = [commit(shard="long", audio=6000.0, encode=50.0), commit(shard="empty", audio=0.0)]
    commits += [commit(shard="slow", encode=9.0)]
    assert [shard.name for shard in slowest(commits)] == ["slow", "long"]


def test_the_perplexity_of_a_codebook_is_the_number_of_equally_frequent_entries():
    counts = CodeCounts([16, 16])
    counts.add(np.stack([np.arange(4).repeat(100), np.zeros(400, int)]))
    chart = codebook_chart(counts)
    assert chart.rows[0] == ("0", "16", "4", "4.0", "2.00", "4.00")
    assert chart.rows[1] == ("1", "16", "1", "1.0", "0.00", "4.00")
    assert codebook_chart(CodeCounts([16])) is None


def groups(num_parts=6, rows=50):
    random = np.random.default_rng(0)
    parts = [FoundPart(f"p{n}", f"/p{n}", 1) for n in range(num_parts)]
    return [Group(part, 0, random.uniform(0.5, 20.0, rows)) for part in parts]


def test_utterances_are_chosen_by_seed_and_spread_over_durations_and_parts():
    chosen = choose_utterances(groups(), 6, seed=3)
    assert chosen == choose_utterances(groups(), 6, seed=3)
    assert chosen != choose_utterances(groups(), 6, seed=4)
    assert len({place.part.name for place in chosen}) == 6
    of_part = {group.part.name: group.durations_N for group in groups()}
    durations = [of_part[place.part.name][place.row] for place in chosen]
    assert durations == sorted(durations)
    assert durations[0] < 5 < 15 < durations[-1]
    assert len(choose_utterances(groups(2, 1), 12, seed=0)) == 2
    assert choose_utterances([], 12, seed=0) == []


def test_a_sample_is_the_same_for_a_seed_and_everything_if_there_is_little():
    assert sampled(range(10**6), 5, 1, "x") == sampled(range(10**6), 5, 1, "x")
    assert sampled(range(10**6), 5, 1, "x") != sampled(range(10**6), 5, 1, "y")
    assert sampled("abc", 5, 1, "x") == ["a", "b", "c"]


@pytest.mark.parametrize("sizes", [None, [], [0], [2**40], ["8"], [2**23] * 3, [8] * 300])
def test_codebooks_that_no_codec_has_are_refused(sizes):
    with pytest.raises(ValueError, match="codebook"):
        codebook_sizes({"codebook_sizes": sizes})


def test_numbers_are_short_and_texts_bounded():
    assert [short(n) for n in (0, 9994, 9999, 123_456, 5_270_000, 1.5e12)] == [
        *("0", "9,994", "10.0 k", "123 k", "5.27 M", "1.50 T")
    ]
    assert [lasted(s) for s in (0, 3.21, 75, 3600, 200_000)] == [
        *("0.0 s", "3.2 s", "1 min 15 s", "1 h", "2 d 7 h")
    ]
    assert [audio_length(s) for s in (30, 7200, 3.6e6)] == ["30.0 s", "2.00 h", "1,000 h"]
    assert [share(*pair) for pair in ((0, 5), (1, 10**6), (1, 30), (5, 5))] == [
        *("0 %", "< 0.01 %", "3.3 %", "100 %")
    ]
    assert limited("a\x00\u202e" + "b" * 300, 20) == "a\\x00\\u202e" + "b" * 8 + "…"
    assert ending("s3://bucket/" + "x" * 100, 10) == "…" + "x" * 9


def test_a_line_of_many_points_keeps_its_ends():
    points = [(float(n), 0.0) for n in range(10_001)]
    kept = thinned(points, 500)
    assert (kept[0], kept[-1], len(kept) <= 502) == (points[0], points[-1], True)


def test_a_spectrogram_is_a_png_that_shows_a_tone_where_it_is():
    rate = 16_000
    sine_T = np.sin(2 * np.pi * 2000 * np.arange(rate) / rate).astype(np.float32)
    width, height, pixels = decoded(spectrogram_png(sine_T, rate, top=16_000.0))
    assert (width, height) == (64, 104)
    loudest = height - 1 - pixels[:, 32].argmax()
    assert loudest == pytest.approx(2000 / 16_000 * height, abs=2)
    assert not pixels[: height // 2].any()  # nothing above half of the sample rate
    for few in (np.zeros(1, np.float32), tone(0.01), np.zeros(rate, np.float32)):
        assert decoded(spectrogram_png(few, rate))[1] == 104


def decoded(data: bytes):
    """Width, height and pixels of a PNG whose lines have no filter."""
    width, height = struct.unpack(">II", data[16:24])
    at = data.index(b"IDAT")
    (size,) = struct.unpack(">I", data[at - 4 : at])
    lines = np.frombuffer(zlib.decompress(data[at + 4 : at + 4 + size]), np.uint8)
    return width, height, lines.reshape(height, width + 1)[:, 1:]


def test_a_histogram_gives_the_longest_value_a_bar_unless_it_is_far_from_the_others():
    assert (near := histogram(np.array([1.0, 2.0, 30.0, 40.3]))).beyond == 0
    assert near.end > 40.3
    assert histogram(np.array([*[1.0] * 999, 100.0])).beyond == 1
