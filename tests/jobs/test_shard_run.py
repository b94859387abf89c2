"""A run over shards says that it is done only if its parts exist."""

import io
import json
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from speechmill.jobs.commands.enhance import enhance_shards
from speechmill.jobs.commands.tokenize import tokenize_shards
from speechmill.jobs.config import from_overrides
from speechmill.jobs.display import Display, ShardDisplay
from speechmill.jobs.schemas import EnhanceConfig, TokenizeConfig
from speechmill.pipeline import metrics
from speechmill.pipeline.errors import StorageError
from speechmill.pipeline.run.runner import Event, Totals
from speechmill.pipeline.storage import Storage
from tests.corpus import write_corpus


class LosingDisplay(ShardDisplay):
    """Deletes the first part, as if it lay on a disk that only its worker sees."""

    def event(self, event: Event, totals: Totals, elapsed: float) -> None:
        super().event(event, totals, elapsed)
        if totals.shards == 1:
            [part] = self.parts.iterdir()
            part.unlink()

    parts: Path


def test_a_run_whose_parts_are_not_at_the_output_fails(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=1, seconds=0.3)
    names = [f"shards=[{tmp_path}/in]", f"output={tmp_path}/out", "codec.name=null"]
    config = from_overrides(TokenizeConfig, [*names, "workers={count: 0, num_gpus: 0}"])
    sink = io.StringIO()
    display = LosingDisplay(Console(file=sink))
    display.parts = tmp_path / "out" / "tokens"
    with pytest.raises(StorageError, match=r"1 parts were committed, but are not at .*/out"):
        tokenize_shards(config, display)
    assert "2 done" not in sink.getvalue()
    [summary] = (tmp_path / "out" / "runs").glob("*/summary.json")
    assert '"status": "aborted"' in summary.read_text()


def test_metrics_count_a_shard_once_whatever_the_number_of_codecs(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=3, seconds=0.3)
    names = [f"shards=[{tmp_path}/in]", f"output={tmp_path}/out", "codecs=[null, pure-16k-small]"]
    config = from_overrides(TokenizeConfig, [*names, "workers={count: 0, num_gpus: 0}"])
    counted: Counter[str] = Counter()
    metrics.send_to(lambda metric, value, _: counted.update({metric.name: value}))
    try:
        totals = tokenize_shards(config, ShardDisplay(Console(file=io.StringIO())))
    finally:
        metrics.send_to(None)
    assert (counted["shards"], counted["utterances"]) == (totals.shards, totals.rows) == (2, 6)
    assert counted["frames"] == totals.frames


@pytest.mark.parametrize("verb", ["tokenize", "enhance"])
def test_a_run_counts_by_reason_what_the_listing_passed_over(tmp_path: Path, verb: str) -> None:
    write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=1, seconds=0.3)
    (tmp_path / "in" / "gone.tar").symlink_to("no")
    for name in ("a.zip", "b.zip"):
        (tmp_path / "in" / name).touch()
    names = [f"shards=[{tmp_path}/in]", f"output={tmp_path}/out", "workers={count: 0, num_gpus: 0}"]
    sink = io.StringIO()
    display = ShardDisplay(Console(file=sink, width=40))
    if verb == "tokenize":
        totals = tokenize_shards(
            from_overrides(TokenizeConfig, [*names, "codec.name=null"]), display
        )
    else:
        config = from_overrides(EnhanceConfig, [*names, "enhancer.name=spectral-gating"])
        totals = enhance_shards(config, display)
    lines = sink.getvalue().splitlines()
    assert f"passed over 1, a link to nothing: {tmp_path}/in/gone.tar" in lines
    assert lines[-1] == "passed over 3: 2 not a .tar by its name; 1 a link to nothing"
    [events] = (tmp_path / "out" / "runs").glob("*/events.jsonl")
    counts = json.loads(events.read_text().splitlines()[0])["passed_over"]
    assert counts == {"a link to nothing": 1, "not a .tar by its name": 2}
    assert json.loads((events.parent / "summary.json").read_text())["listing_passed_over"] == counts
    assert totals.shards == 2


def test_a_closing_line_is_printed_only_if_its_files_exist(tmp_path: Path) -> None:
    sink = io.StringIO()
    display = Display(Console(file=sink))
    weights = tmp_path / "last.safetensors"
    with pytest.raises(StorageError, match=r"last\.safetensors does not exist; workers on other"):
        display.done(f"weights are {weights}", [str(weights)], Storage())
    assert sink.getvalue() == ""
    weights.write_bytes(b"")
    display.done(f"weights are {weights}", [str(weights)], Storage())
    assert sink.getvalue() == f"done     weights are {weights}\n"


def test_metrics_count_the_shards_left_of_each_output_down_to_none(tmp_path: Path) -> None:
    write_corpus(tmp_path / "in", num_shards=2, clips_per_shard=1, seconds=0.3)
    names = [f"shards=[{tmp_path}/in]", f"output={tmp_path}/out", "codecs=[null, pure-16k-small]"]
    config = from_overrides(TokenizeConfig, [*names, "workers={count: 0, num_gpus: 0}"])
    seen: list[tuple[str, float, dict[str, str]]] = []
    metrics.send_to(lambda metric, value, labels: seen.append((metric.name, value, labels)))
    try:
        tokenize_shards(config, ShardDisplay(Console(file=io.StringIO())))
    finally:
        metrics.send_to(None)
    for codec in ("null", "pure-16k-small"):
        output = {"output": f"{tmp_path}/out/{codec}"}
        assert [value for _, value, labels in seen if labels == output] == [2, 1, 0]
    assert ("worker_events", 1, {"event": "worker ready", "error": ""}) in seen
