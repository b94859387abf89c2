"""`speechmill plan` as users type it, beside the run that follows."""

import gzip
import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from speechmill.codecs import codec_info
from speechmill.jobs.commands.plan.forecast import Prices
from speechmill.jobs.commands.plan.plan import plan_run
from speechmill.jobs.commands.plan.probe import ProbeSize
from speechmill.jobs.commands.plan.table import plan_json, print_plan
from speechmill.jobs.commands.tokenize import tokenize_job
from speechmill.jobs.config import from_overrides, load_config
from speechmill.jobs.schemas import TokenizeConfig
from speechmill.pipeline.shards.listing import Shard, list_shards
from speechmill.pipeline.storage import Storage
from speechmill.pipeline.tokenize.decode import DecodeSettings, Isolation
from speechmill.pipeline.tokenize.decode_part import PartEnd, PartLimit, decode_part
from speechmill.pipeline.tokenize.probe_job import ProbeJob
from tests.corpus import clip, tar_bytes, write_corpus
from tests.jobs.conftest import invoke, write_config

LOCAL = ("workers.count=0", "workers.num_gpus=0")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Four small shards, one of them with a reject, and a new output."""
    write_corpus(tmp_path / "in", num_shards=3, clips_per_shard=6, seconds=0.5)
    odd = [("a.flac", clip(0.7)), ("b.flac", b"junk"), ("c.flac", clip(0.4, seed=5))]
    (tmp_path / "in" / "odd.tar").write_bytes(tar_bytes(odd))
    return written(tmp_path, tmp_path / "in")


def written(folder: Path, shards: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(f"shards: ['{shards}']\noutput: '{folder}/out'\ncodec: {{name: 'null'}}\n")
    return path


def plans(*arguments: object) -> list[dict]:
    done = invoke("plan", *arguments, "--json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_probe_of_all_shards_says_what_the_run_then_does_and_writes_nothing(tmp_path, config):
    before = sorted(tmp_path.rglob("*"))
    [found] = plans(config, *LOCAL, "--probe", 99)
    assert sorted(tmp_path.rglob("*")) == before
    assert invoke("tokenize", config, *LOCAL).exit_code == 0
    summary = json.loads(next(tmp_path.glob("out/runs/*/summary.json")).read_text())
    estimate = found["estimate"]
    assert estimate["audio_hours"] * 3600 == pytest.approx(summary["audio_seconds"], rel=1e-9)
    assert (estimate["utterances"], estimate["rejects"]) == (pytest.approx(20), pytest.approx(1))
    assert estimate["audio_hours_low"] == estimate["audio_hours_high"] == estimate["audio_hours"]
    parts = [*tmp_path.glob("out/tokens/*"), *tmp_path.glob("out/rejects/*")]
    assert estimate["bytes_out"] == pytest.approx(sum(p.stat().st_size for p in parts), rel=0.01)
    probe = found["run"]["probe"]
    assert (probe["shards"], probe["whole_shards"], found["run"]["gpu_hours"]) == (4, 4, None)


def test_samples_that_were_dropped_are_planned_as_rejects(tmp_path, config):
    assert invoke("tokenize", config, *LOCAL).exit_code == 0
    (tmp_path / "keys.txt").write_text("a\n")
    assert invoke("drop", tmp_path / "out", "--keys", tmp_path / "keys.txt").exit_code == 0
    for part in (tmp_path / "out" / "tokens").iterdir():
        part.unlink()
    [found] = plans(config, *LOCAL, "--probe", 99)
    counts = (found["estimate"]["utterances"], found["estimate"]["rejects"])
    assert counts == (pytest.approx(19), pytest.approx(2))


def test_a_probe_of_some_shards_has_an_interval_and_scales_to_machines(config):
    [found] = plans(config, *LOCAL, "--probe", 2)
    low, value, high = (found["estimate"][f"audio_hours{e}"] for e in ("_low", "", "_high"))
    assert low < value < high
    scales = found["run"]["scales"]
    assert [each["units"] for each in scales] == [1, 8, 64, 512]
    walls = [each["wall_seconds"] for each in scales]
    assert walls == sorted(walls, reverse=True)
    assert walls[-1] >= found["run"]["start_seconds"]
    assert found["todo_hours"] == value


def test_the_table_says_where_the_speed_is_from_and_which_prices_are_missing(config):
    done = invoke("plan", config, *LOCAL, "--probe", "0.3s", "--gpu-hour", 2.5)
    assert done.exit_code == 0, done.output
    for said in (
        "the speed is that of this CPU",
        "give --core-hour",
        "none, all is on local disks",
    ):
        assert said in done.stdout
    assert "--gpu-hour is not used" in done.stdout
    assert "4 shards can keep at most 4 machines busy" in done.stdout


def test_the_cost_is_that_of_the_cores_for_the_wall_time(config):
    [found] = plans(config, *LOCAL, "--probe", 4, "--core-hour", 0.04)
    cores = found["run"]["probe"]["cores"]
    for scale in found["run"]["scales"]:
        hours = scale["units"] * scale["wall_seconds"] / 3600
        assert scale["cost"] == pytest.approx(hours * cores * 0.04)


@pytest.mark.parametrize(
    "wrong",
    [
        ("--gpu-hour", "-1"),
        ("--core-hour", "nan"),
        ("--million-requests", "cheap"),
        ("--probe", "-3"),
        ("--probe", "soon"),
    ],
)
def test_a_wrong_price_or_probe_is_refused(config, wrong):
    done = invoke("plan", config, *LOCAL, *wrong)
    assert (done.exit_code, wrong[0] in done.stderr) == (2, True)


SHARDS_WITHOUT_AUDIO = {
    "none of 1 probed shards can be read": b"no tar at all" * 999,
    "they have no samples": tar_bytes([]),
    "they have 1 NoAudio": tar_bytes([("a.txt", b"words")]),
    "they have 2 UndecodableAudio": tar_bytes([("a.flac", b"junk"), ("b.flac", b"junk")]),
}


@pytest.mark.parametrize(("said", "data"), SHARDS_WITHOUT_AUDIO.items())
def test_input_without_audio_is_refused_in_one_line_and_still_listed(tmp_path, said, data):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.tar").write_bytes(data)
    path = written(tmp_path, tmp_path / "in")
    done = invoke("plan", path, *LOCAL, "--probe", "1s")
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1), done.output
    assert said in done.stderr
    assert invoke("plan", path, *LOCAL, "--probe", 0).exit_code == 0


def test_a_shard_that_cannot_be_read_counts_as_one_without_audio(tmp_path, config):
    [whole] = plans(config, *LOCAL, "--probe", 9)
    (tmp_path / "in" / "cut.tar").write_bytes(tar_bytes([("z.flac", clip(2.0))])[:3000])
    [found] = plans(config, *LOCAL, "--probe", 9)
    assert found["run"]["probe"]["unreadable_shards"] == 1
    assert found["estimate"]["audio_hours"] == pytest.approx(whole["estimate"]["audio_hours"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_configuration_for_gpus_is_planned_on_a_laptop_at_the_speed_of_its_cpu(config):
    gpus = ("workers.count=0", "workers.num_gpus=1", "codec.precision=bf16")
    done = invoke("plan", config, *gpus, "--probe", 1)
    assert (done.exit_code, "not of a GPU" in done.stdout) == (0, True), done.output


def test_several_codecs_have_a_table_each_and_one_run(config):
    overrides = ["codecs=[null, {name: pure-16k-small}]", *LOCAL]
    settings = load_config(TokenizeConfig, config, overrides)
    found = plan_run(settings, ProbeSize(None, 2), Prices())
    both = json.loads(plan_json(found))
    assert [each["codec"] for each in both] == ["null", "pure-16k-small"]
    assert both[0]["run"] == both[1]["run"]
    hours = [each["estimate"]["audio_hours"] for each in both]
    assert hours[0] == pytest.approx(hours[1])
    encoding = sum(each["estimate"]["encode_hours"] for each in both)
    assert both[0]["run"]["encode_hours"] == pytest.approx(encoding)
    print_plan(found, Console(file=(sink := io.StringIO()), width=200))
    assert "2 codecs at a time; all of it is decoded once" in sink.getvalue()


def test_parts_that_are_done_are_part_of_the_estimate_of_the_rest(tmp_path, config):
    assert invoke("tokenize", config, *LOCAL).exit_code == 0
    assert "audio to do  none" in invoke("plan", config, *LOCAL).stdout
    for part in sorted((tmp_path / "out" / "tokens").iterdir())[:2]:
        part.unlink()
    [found] = plans(config, *LOCAL, "--probe", 2)
    assert (found["todo"], found["estimate"]["finished_parts"]) == (2, 2)
    assert found["todo_seconds"] > 0
    assert "by the parts that are done" in invoke("plan", config, *LOCAL, "--probe", 0).stdout


def test_a_plan_on_a_cluster_uses_one_worker_of_it(tmp_path, cluster, config):
    path = write_config(tmp_path, cluster, tmp_path / "in", tmp_path / "out")
    [found] = plans(path, "--probe", 9, "workers.count=3")
    probe = found["run"]["probe"]
    assert (probe["whole_shards"], probe["cores"], found["run"]["unit"]) == (4, 2, "machine")
    assert found["estimate"]["utterances"] == pytest.approx(20)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_the_bytes_of_the_first_samples_are_those_that_they_take_in_the_tar(tmp_path, pack):
    clips = [(f"{n:02d}.flac", clip(1.0, seed=n)) for n in range(40)]
    (tmp_path / "x.tar").write_bytes(pack(tar_bytes(clips)))
    [shard] = list_shards([f"{tmp_path}/x.tar"], Storage())
    limit = PartLimit(shard.size / 2, 60.0)
    codecs = [codec_info("null")]
    *batches, end = decode_part(shard, Storage(), DecodeSettings(), codecs, Isolation.NONE, limit)
    assert isinstance(end, PartEnd)
    assert not end.whole
    share = sum(len(batch.num_samples_B) for batch in batches) / 40
    assert 0.45 < share < 0.65
    slack = 0.02 if pack is bytes else 0.35  # gzip is read in blocks of 128 KiB
    assert end.bytes_read / shard.size == pytest.approx(share, abs=slack)


def part_of(shard: Shard, share: float, place: float | None) -> tuple[list[dict], PartEnd]:
    """The rows of a share of a tar, and its end."""
    limit = PartLimit(shard.size * share, 60.0, place)
    settings, codecs = DecodeSettings(), [codec_info("null")]
    *batches, end = decode_part(shard, Storage(), settings, codecs, Isolation.NONE, limit)
    assert isinstance(end, PartEnd)
    return [row for batch in batches for row in batch.rows.to_pylist()], end


@pytest.mark.parametrize("name", ["{:02d}", "long name " * 12 + "{:02d}"])
def test_a_part_from_the_middle_of_a_tar_has_whole_samples_only(tmp_path, name):
    audio = [(f"{name.format(n)}.flac", clip(0.5, seed=n)) for n in range(40)]
    texts = [(f"{name.format(n)}.txt", b"words") for n in range(40)]
    members = [member for pair in zip(audio, texts, strict=True) for member in pair]
    (tmp_path / "x.tar").write_bytes(tar_bytes(members))
    [shard] = list_shards([f"{tmp_path}/x.tar"], Storage())
    first_rows = set()
    for place in (0.1, 0.3, 0.6, 0.95):
        rows, end = part_of(shard, 0.25, place)
        assert end.rejects == []
        assert {row["text"] for row in rows} == {"words"}
        assert end.bytes_read / shard.size == pytest.approx(len(rows) / 40, abs=0.02)
        first_rows.add(min(row["key"] for row in rows))
    assert len(first_rows) == 4


def test_parts_of_a_tar_that_is_sorted_by_length_are_on_average_like_the_tar(tmp_path):
    lengths = [0.1 + 0.03 * n for n in range(64)]
    clips = [(f"{n:02d}.flac", clip(seconds, seed=n)) for n, seconds in enumerate(lengths)]
    (tmp_path / "x.tar").write_bytes(tar_bytes(clips))
    [shard] = list_shards([f"{tmp_path}/x.tar"], Storage())
    parts = [part_of(shard, 0.1, (n + 0.5) / 12) for n in range(12)]
    rows, read = sum(len(r) for r, _ in parts), sum(end.bytes_read for _, end in parts)
    assert rows / read * shard.size == pytest.approx(len(lengths), rel=0.15)
    [alone], end = part_of(shard, 1e-9, 1.0)  # nothing begins at the end: the start is read
    assert (alone["index"], end.whole) == (0, False)


@pytest.mark.parametrize("seconds", [0.5, 9.0])
def test_the_bytes_of_a_part_are_those_of_its_samples_wherever_it_begins_and_ends(
    tmp_path, seconds
):
    clips = [(f"{n:02d}.flac", clip(seconds, seed=n)) for n in range(6)]
    (tmp_path / "x.tar").write_bytes(tar_bytes(clips))
    [shard] = list_shards([f"{tmp_path}/x.tar"], Storage())
    sizes = [512 + -(-len(data) // 512) * 512 for _, data in clips]
    for place in (None, 0.0, 0.2, 0.5, 0.8, 0.99):
        rows, end = part_of(shard, 0.3, place)
        of_rows = sum(sizes[int(row["key"])] for row in rows)
        slack = shard.size - sum(sizes)  # the end of the tar is padded
        assert of_rows <= end.bytes_read + 512
        assert end.bytes_read <= of_rows + slack + 512


def test_a_part_of_one_row_says_how_large_the_part_of_many_is(tmp_path):
    clips = [(f"{n:02d}.flac", clip(4.0, seed=n)) for n in range(12)]
    for name, members in (("few", clips[:1]), ("many", clips)):
        (tmp_path / f"{name}.tar").write_bytes(tar_bytes(members))
    config = from_overrides(
        TokenizeConfig, [f"shards=[{tmp_path}]", "output=x", "codec.name='null'", LOCAL[1]]
    )
    job = tokenize_job([config], [codec_info("null")], Storage())
    prober = ProbeJob(job, seconds=None).load()
    few, many = (
        prober(shard, lambda stage, *given: stage(*given), Isolation.NONE, [0]).codecs[0]
        for shard in list_shards([str(tmp_path)], Storage())
    )
    grown = few.fixed_bytes + 12 * (few.part_bytes - few.fixed_bytes)
    assert (few.report.rows, many.report.rows) == (1, 12)
    assert grown == pytest.approx(many.part_bytes, rel=0.15)
