"""A codec that stops using its codebooks: what is noticed, what is not, and what a run does."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from speechmill.codecs import load_recipe
from speechmill.jobs.training.collapse import (
    FIRST,
    PATIENCE,
    WINDOW,
    Collapse,
    CollapseDetector,
    refuse_collapsed,
)
from speechmill.pipeline.errors import InputError, TrainingCollapsed
from tests.codecs.overfit import begin, clips
from tests.codecs.simwhisper.golden import CONFIG
from tests.jobs.conftest import invoke
from tests.jobs.training import runs, test_recipes
from tests.jobs.training.runs import run, run_until, tree, weights

# SimWhisper fell from 22 codes to 1 by step 41 at ten times its learning rate. Only these ends were
# recorded; the steps between are made up.
FALL = [22.0] * 33 + [19.0, 14.0, 8.0, 5.0, 3.0, 2.0, 1.2, 1.0]


def collapses(values: Iterable[float], metric: str = "lowest_perplexity") -> list[Collapse]:
    detector = CollapseDetector()
    found = [detector.add(n, "codec", {metric: value}) for n, value in enumerate(values, 1)]
    return [each for each in found if each]


def noisy(means: Iterable[float], spread: float = 0.3) -> list[float]:
    random = np.random.default_rng(0)
    return [float(mean * np.exp(spread * random.standard_normal())) for mean in means]


def test_a_fall_to_one_code_is_noticed_once_a_few_steps_later() -> None:
    [found] = collapses(FALL + [1.0] * 500)
    assert 41 <= found.step <= 41 + WINDOW
    assert str(found) == (
        f"phase codec has collapsed at step {found.step}: lowest_perplexity is 1.6, at step 1 it "
        "was 22"
    )
    assert found.cure == "lower phases.codec.lr or raise phases.codec.warmup"
    assert 33 <= found.healthy_step <= 35


def test_a_fall_in_the_first_steps_is_noticed_as_soon_as_a_phase_is_judged() -> None:
    [found] = collapses([9.0, 4.0, 1.5] + [1.0] * 50)
    assert found.step == FIRST


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(noisy(np.linspace(1.5, 200, 600)), id="slow rise"),
        pytest.param(noisy([12.0] * 2000, spread=0.6), id="noise"),
        pytest.param(noisy(np.geomspace(300, 60, 1000)), id="k-means start"),
        pytest.param(([30.0] * 20 + [1.0] * 4) * 50, id="silent batches"),
        pytest.param([1.0, 2.5, 1.2] * 100 + [8.0] * 500, id="slow start"),
        pytest.param([3.0, 1.9] * 200, id="a small batch"),
    ],
)
def test_normal_training_is_not_a_collapse(values: list[float]) -> None:
    assert collapses(values) == []


def test_a_codebook_that_is_never_used_is_noticed_after_some_patience() -> None:
    [found] = collapses([1.0] * (PATIENCE + 100))
    assert (found.step, found.healthy_step) == (PATIENCE, 0)


def test_a_fall_to_a_tenth_is_a_collapse_although_many_codes_are_left() -> None:
    [found] = collapses([400.0] * 50 + [35.0] * 50)
    assert found.step < 50 + WINDOW


def test_a_second_collapse_is_reported_only_after_a_recovery() -> None:
    low, high = [1.0] * 30, [20.0] * 30
    assert len(collapses(high + low + [3.0] * 30 + low)) == 1
    assert len(collapses(high + low + high + low)) == 2


def test_a_latent_collapses_when_none_or_hardly_any_of_its_dimensions_is_used() -> None:
    for least in (0.0, 3.0):
        [found] = collapses([64.0] * 40 + [least] * 20, "latent_dims_used")
        assert found.value == least
    assert collapses([1.0] * 1000, "latent_dims_used") == []


def test_a_phase_without_codes_is_not_judged() -> None:
    assert collapses([0.0] * 1000, "mel") == []


# The learning rate is low for 11 steps, and then so high that weight decay leaves nothing.
JUMP = (
    "phases.codec={steps: 22, lr: 1e-4, schedule: exponential, decay: 200, decay_every: 11, "
    "adversarial_from: null}",
    "phases.decoder.steps=0",
    "validation.shards=[]",
    "optimizer.weight_decay=50",
    "checkpoint.every=11",
)


def jump_from_random_weights(folder: Path) -> tuple[str, ...]:
    """JUMP from a checkpoint: unlike weights drawn by the run, its latents are not normalised."""
    torch.manual_seed(777)
    drawn = load_recipe("simwhisper", config=CONFIG, checkpoint="untrained")
    begin(drawn, "codec", clips(drawn, 1.0))
    save_file(drawn.weights_for_inference(), folder / "drawn.safetensors")
    return (*JUMP, f"codec.checkpoint={folder}/drawn.safetensors")


def test_a_simwhisper_that_collapses_warns_or_stops_and_resumes_like_an_uninterrupted_one(
    tmp_path: Path,
) -> None:
    jump = jump_from_random_weights(tmp_path)
    config = test_recipes.train_config(tmp_path, "simwhisper", *jump)
    root, command = Path(config.output), ("train", tmp_path / "train.yaml", *jump)
    whole = tmp_path / "a"
    warned = " ".join(invoke(*command, f"output={whole}").output.split())
    assert f"warning phase codec has collapsed at step {FIRST}: lowest_perplexity is" in warned
    assert "the same command with on_collapse=stop names the weights from before" in warned
    [record] = (whole / "collapse").iterdir()
    step = json.loads(record.read_text())["step"]
    assert step == FIRST

    run_until(config, 14)
    for _ in range(2):  # the second time nothing is computed
        stopped = invoke(*command, "on_collapse=stop")
        said = " ".join(stopped.output.split())
        assert stopped.exit_code == 1, said
        assert f"TrainingCollapsed: phase codec has collapsed at step {step}: lowest_per" in said
        assert "lower phases.codec.lr or raise phases.codec.warmup and give another output" in said
        assert f"codec.checkpoint={root}/last.safetensors takes the weights of step 11" in said
    assert (root / "checkpoints" / f"step-{step:08d}.pt").exists()

    resumed = invoke(*command)
    assert resumed.exit_code == 0, resumed.output
    assert "warning" not in resumed.output
    assert tree(root, "curves", "collapse") == tree(whole, "curves", "collapse")
    assert weights(root) == weights(whole)


def test_a_normal_run_does_not_warn(tmp_path: Path) -> None:
    steps = ("phases.vae.steps=0", f"phases.quantize.steps={FIRST + 4}", "checkpoint.every=100")
    root = run(runs.train_config(tmp_path, *steps, "validation.shards=[]"))
    assert not (root / "collapse").exists()


def test_the_error_names_weights_from_before_the_collapse_only(tmp_path: Path) -> None:
    config = runs.train_config(tmp_path, "on_collapse=stop")
    detector = CollapseDetector()
    for step, value in enumerate([20.0] * 30 + [1.0] * 20, 1):
        detector.add(step, "quantize", {"lowest_perplexity": value})
    saved = {"collapse": detector.as_dict(), "weights_step": 20, "best": {"step": 25}}
    for changed, named in (
        ({}, "/run/best.safetensors takes the weights of step 25"),
        ({"best": {"step": 31}}, "/run/last.safetensors takes the weights of step 20"),
        ({"best": {"step": 0}, "weights_step": 31}, "no weights from before the collapse"),
    ):
        with pytest.raises(TrainingCollapsed, match=named):
            refuse_collapsed(saved | changed, config, "/run")
    config.on_collapse = "warn"
    refuse_collapsed(saved, config, "/run")


def test_another_reaction_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="on_collapse is 'ignore'; use one of warn, stop"):
        runs.train_config(tmp_path, "on_collapse=ignore")
