"""Training runs as a whole: phases, checkpoints, resuming, bad input."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from speechmill.codecs import codec_info, load_codec
from speechmill.codecs.errors import UnsupportedPrecision
from speechmill.jobs.commands.train import make_job
from speechmill.jobs.config import load_config
from speechmill.jobs.training.checkpoints import Checkpoints
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.context import WorkerContext
from speechmill.jobs.training.worker import train_worker
from speechmill.pipeline.errors import InputError, StorageFull, TrainingDiverged
from speechmill.pipeline.storage import Storage
from tests.conftest import REPOSITORY
from tests.corpus import clip, tar_bytes
from tests.jobs.training.runs import (
    KEPT,
    TINY,
    run,
    run_until,
    train_config,
    train_yaml,
    tree,
    weights,
)

MADE_BEFORE = REPOSITORY / "tests" / "data" / "made-by-3ee6561"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    return run(train_config(folder, "log.every=1", output="whole"))


def test_a_run_leaves_weights_that_tokenize(uninterrupted: Path) -> None:
    checkpoint = uninterrupted / "best.safetensors"
    codec = load_codec("pure", config=TINY, checkpoint=checkpoint)
    assert codec.info.trained
    assert codec.info.revision != codec_info("pure", config=TINY).revision
    audio_BT = torch.randn(1, 6_400) * 0.1
    codes_BKF = codec.encode(audio_BT, torch.tensor([6_400]))
    assert codec.decode(codes_BKF, torch.tensor([20])).isfinite().all()


def test_a_run_directory_holds_configuration_versions_and_the_losses_of_every_step(
    uninterrupted: Path,
) -> None:
    names = {path.name for path in uninterrupted.iterdir()}
    assert names >= {"config.yaml", "versions.json", "tensorboard", "checkpoints", *KEPT}
    rows = [
        json.loads(line)
        for path in sorted((uninterrupted / "curves").iterdir())
        for line in path.read_text().splitlines()
    ]
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert {row["phase"] for row in rows[:6]} == {"vae"}
    assert all(row["kl"] > 0 for row in rows[:6])
    assert all(row["taught"] in (0, 0.5, 1) for row in rows[6:])


@pytest.mark.parametrize("step", [1, 4, 7, 8, 11])
def test_a_run_that_crashed_at_any_step_ends_like_an_uninterrupted_one(
    uninterrupted: Path, tmp_path: Path, step: int
) -> None:
    config = train_config(uninterrupted.parent, "log.every=1", f"output={tmp_path}/run")
    run_until(config, step)
    resumed = run(config)
    assert tree(resumed, *KEPT) == tree(uninterrupted, *KEPT)
    assert weights(resumed) == weights(uninterrupted)


def test_a_killed_process_resumes_with_the_same_losses(uninterrupted: Path, tmp_path: Path) -> None:
    yaml = train_yaml(uninterrupted.parent, "unused")
    command = [
        sys.executable,
        "-m",
        "speechmill.jobs.cli",
        "train",
        str(yaml),
        f"output={tmp_path}/run",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not list(tmp_path.glob("run/checkpoints/step-*.pt")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    subprocess.run(command, check=True, capture_output=True)
    assert tree(tmp_path / "run", *KEPT) == tree(uninterrupted, *KEPT)


def test_a_run_of_an_early_version_resumes_by_absolute_paths_and_is_validated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checkpoint holds paths as they were typed, and the best value of another metric."""
    monkeypatch.chdir(shutil.copytree(MADE_BEFORE / "training", tmp_path / "old"))
    shutil.copytree(MADE_BEFORE / "shards", "shards")
    config = load_config(TrainConfig, Path("train.yaml"), [])
    assert load_config(TrainConfig, Path("run/config.yaml"), ["log.every=10"]) == config
    run(config)
    assert "2.814 at step 8, was measured in another way" in caplog.text
    best = Checkpoints("run", Storage(), keep=3).latest()["best"]
    assert (best["phase"], best["step"]) == ("quantize", 12)
    assert Path("run/best.safetensors").exists()
    with pytest.raises(InputError, match=r"codec\.config was '.*/tiny\.json' and is '.*/other"):
        run(load_config(TrainConfig, Path("train.yaml"), ["codec.config=other.json"]))


def test_only_the_newest_checkpoints_are_kept(uninterrupted: Path) -> None:
    assert Checkpoints(str(uninterrupted), Storage(), keep=3).steps() == [6, 9, 12]


@pytest.mark.parametrize("section", ["validation", "checkpoint", "log"])
def test_a_period_of_no_steps_is_refused(tmp_path: Path, section: str) -> None:
    with pytest.raises(InputError, match=rf"{section}\.every is 0; give a number of steps"):
        train_config(tmp_path, f"{section}.every=0")


def test_phases_without_a_step_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the phases have 0 steps together"):
        train_config(tmp_path, "phases.vae.steps=0", "phases.quantize.steps=0")


def test_a_finished_run_has_nothing_left_to_do(uninterrupted: Path) -> None:
    before = weights(uninterrupted)
    run(train_config(uninterrupted.parent, "log.every=1", output="whole"))
    assert weights(uninterrupted) == before


def test_a_finished_run_that_was_not_validated_can_be_started_with_validation(
    tmp_path: Path,
) -> None:
    short = ("phases.vae.steps=1", "phases.quantize.steps=0")
    run(train_config(tmp_path, *short, "validation.shards=[]"))
    root = run(train_config(tmp_path, *short))
    assert not (root / "best.safetensors").exists()


def test_a_checkpoint_of_another_configuration_is_refused_with_the_differences(
    uninterrupted: Path,
) -> None:
    changed = ["recipe.p_enh=1.0", "phases.vae.lr=0.1", "data.threads=2"]
    config = train_config(uninterrupted.parent, *changed, output="whole")
    with pytest.raises(InputError, match=r"phases\.vae\.lr was 0\.001 and is 0\.1; recipe\.p_enh"):
        run(config)


def test_training_starts_from_given_weights(uninterrupted: Path, tmp_path: Path) -> None:
    config = train_config(
        uninterrupted.parent,
        f"codec.checkpoint={uninterrupted}/best.safetensors",
        f"output={tmp_path}/tuned",
        "phases.vae.steps=0",
        "phases.quantize.lr=0",
    )
    tuned = load_codec("pure", config=TINY, checkpoint=run(config) / "last.safetensors")
    begun = load_codec("pure", config=TINY, checkpoint=uninterrupted / "best.safetensors")
    ours, theirs = (codec.network.state_dict() for codec in (tuned, begun))
    moved = {name for name in ours if not torch.allclose(ours[name], theirs[name], atol=1e-6)}
    assert moved == {"quantizer.codebooks_KND", "quantizer.searched_SND"}


def test_unknown_phases_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="trained in vae, quantize"):
        run(train_config(tmp_path, "phases.finish.steps=3"))


def test_a_worker_refuses_a_precision_that_does_not_exist(tmp_path: Path) -> None:
    """The driver cannot check it for a GPU that only the worker has."""
    job = make_job(train_config(tmp_path, "precision=bf61"), Storage())
    with pytest.raises(UnsupportedPrecision, match="no precision 'bf61'"):
        train_worker(job, WorkerContext(), lambda progress: None)


def test_a_sample_without_its_enhanced_version_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sample '00\d-00\d' has no \.enhanced\.flac"):
        run(train_config(tmp_path, "enhancement=offline"))


def test_an_empty_validation_set_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "empty.tar").write_bytes(tar_bytes([("a.txt", b"no audio")]))
    with pytest.raises(InputError, match="no clip in"):
        run(train_config(tmp_path, f"validation.shards=[{tmp_path}/empty.tar]"))


def test_shards_of_another_rate_are_resampled_and_a_pair_of_two_lengths_refused(
    tmp_path: Path,
) -> None:
    pair = [("a.flac", clip(1.0)), ("a.enhanced.flac", clip(0.5))]
    (tmp_path / "pair.tar").write_bytes(tar_bytes(pair))
    with pytest.raises(InputError, match="16000 samples at 16000 Hz"):
        run(train_config(tmp_path, "enhancement=offline", f"shards=[{tmp_path}/pair.tar]"))


def test_steps_without_a_finite_gradient_are_skipped_and_then_named(tmp_path: Path) -> None:
    config = train_config(
        tmp_path, "phases.vae.lr=1e30", "optimizer.clip_grad=null", "optimizer.max_skipped=3"
    )
    with pytest.raises(TrainingDiverged, match="3 steps in a row"):
        run(config)
    [report] = (tmp_path / "run" / "skipped").iterdir()
    assert len(json.loads(report.read_text())["keys"]) == 3


def test_a_full_disk_leaves_the_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = train_config(tmp_path, "log.every=1")
    put = Storage.put

    def full(self: Storage, url: str, data: bytes) -> None:
        if url.endswith("step-00000009.pt"):
            raise StorageFull(f"{url}: no space left on device")
        put(self, url, data)

    with monkeypatch.context() as patch:
        patch.setattr(Storage, "put", full)
        with pytest.raises(StorageFull):
            run(config)
    assert Checkpoints(config.output, Storage(), keep=3).steps() == [3, 6]
    assert run(config).exists()
    assert Checkpoints(config.output, Storage(), keep=3).steps() == [6, 9, 12]


def test_discriminators_take_part_from_their_step_and_resume(tmp_path: Path) -> None:
    small = "discriminators={periods: [2], ffts: [128], period_channels: [4, 8], band_channels: 4}"
    overrides = ["phases.quantize.adversarial_from=2", small, "log.every=1"]
    whole = run(train_config(tmp_path, *overrides, output="whole"))
    config = train_config(tmp_path, *overrides, output="crashed")
    run_until(config, 11)
    assert tree(run(config), "curves") == tree(whole, "curves")
    rows = (whole / "curves" / "step-00000009.jsonl").read_text().splitlines()
    assert ["discriminators" in json.loads(row) for row in rows] == [False, False, True]


def test_bf16_trains_too(tmp_path: Path) -> None:
    root = run(train_config(tmp_path, "precision=bf16", "phases.vae.steps=2"))
    assert (root / "last.safetensors").exists()
