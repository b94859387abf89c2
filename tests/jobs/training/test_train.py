"""Training runs as a whole: phases, checkpoints, resuming, bad input."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from speechmill.codecs import codec_info, load_codec
from speechmill.codecs.errors import UnsupportedPrecision
from speechmill.jobs.config import load_config
from speechmill.jobs.training.checkpoints import Checkpoints
from speechmill.jobs.training.config import TrainConfig
from speechmill.jobs.training.optim import Optimizer
from speechmill.jobs.training.trainer import Trainer
from speechmill.pipeline.errors import InputError, StorageFull, TrainingDiverged
from speechmill.pipeline.storage import Storage
from tests.conftest import REPOSITORY
from tests.corpus import clip, tar_bytes
from tests.jobs.conftest import command, wait_until
from tests.jobs.training.runs import (
    KEPT,
    TINY,
    run,
    run_and_stop,
    run_until,
    train_config,
    train_yaml,
    tree,
    weights,
)

SMALL = "discriminators={periods: [2], ffts: [128], period_channels: [4, 8], band_channels: 4}"
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
    assert all(row["kl"] > 0 and row["latent_dims_used"] >= 0 for row in rows[:6])
    assert all(row["taught"] in (0, 0.5, 1) and row["codes_used"] > 1 for row in rows[6:])


@pytest.mark.parametrize("step", [1, 4, 7, 8, 11])
def test_a_run_that_crashed_at_any_step_ends_like_an_uninterrupted_one(
    uninterrupted: Path, tmp_path: Path, step: int
) -> None:
    config = train_config(uninterrupted.parent, "log.every=1", f"output={tmp_path}/run")
    run_until(config, step)
    resumed = run(config)
    assert tree(resumed, *KEPT) == tree(uninterrupted, *KEPT)
    assert weights(resumed) == weights(uninterrupted)


@pytest.mark.parametrize("step", [3, 8])
def test_a_run_that_was_stopped_after_any_step_resumes_from_it_to_the_same_files(
    uninterrupted: Path, tmp_path: Path, step: int
) -> None:
    config = train_config(uninterrupted.parent, "log.every=1", f"output={tmp_path}/run")
    run_and_stop(config, step)
    assert Checkpoints(config.output, Storage(), keep=3).steps()[-1] == step
    resumed = run(config)
    assert tree(resumed, *KEPT) == tree(uninterrupted, *KEPT)
    assert weights(resumed) == weights(uninterrupted)


def test_sigterm_ends_a_run_with_130_and_a_message_that_says_how_to_resume(tmp_path: Path) -> None:
    yaml, every_step = str(train_yaml(tmp_path)), "log.every=1"
    process = subprocess.Popen(
        command("train", yaml, every_step, "phases.vae.steps=100000", "checkpoint.every=100000"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    next(line for line in process.stdout if "  step " in line)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "run the same command again to resume" in errors
    [step] = Checkpoints(f"{tmp_path}/run", Storage(), keep=3).steps()
    assert step < 100_000


def test_a_killed_process_resumes_with_the_same_losses(uninterrupted: Path, tmp_path: Path) -> None:
    output = f"output={tmp_path}/run"
    yaml = str(train_yaml(uninterrupted.parent, "unused"))
    process = subprocess.Popen(command("train", yaml, output), stdout=subprocess.DEVNULL)
    wait_until(lambda: list(tmp_path.glob("run/checkpoints/step-*.pt")), process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run(train_config(uninterrupted.parent, output))
    assert tree(tmp_path / "run", *KEPT) == tree(uninterrupted, *KEPT)


def test_a_run_of_an_early_version_resumes_by_absolute_paths_and_is_validated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its checkpoint holds paths as they were typed, and the best value of another metric."""
    monkeypatch.chdir(shutil.copytree(MADE_BEFORE / "training", tmp_path / "old"))
    shutil.copytree(MADE_BEFORE / "shards", "shards")
    on_cpu = "workers.num_gpus=0"
    config = load_config(TrainConfig, Path("train.yaml"), [on_cpu])
    assert load_config(TrainConfig, Path("run/config.yaml"), ["log.every=10", on_cpu]) == config
    run(config)
    assert "2.814 at step 8, was measured in another way" in caplog.text
    best = Checkpoints("run", Storage(), keep=3).latest()["best"]
    assert (best["phase"], best["step"]) == ("quantize", 12)
    assert Path("run/best.safetensors").exists()
    with pytest.raises(InputError, match=r"codec\.config was '.*/tiny\.json' and is '.*/other"):
        run(load_config(TrainConfig, Path("train.yaml"), ["codec.config=other.json", on_cpu]))


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


@pytest.mark.parametrize("workers", ["{count: 0, num_gpus: 0}", "{count: null, num_gpus: 1}"])
def test_a_precision_that_does_not_exist_is_refused_before_anything_starts(
    tmp_path: Path, workers: str
) -> None:
    with pytest.raises(InputError, match="precision is 'bf61'; use one of auto, fp32, tf32"):
        train_config(tmp_path, "precision=bf61", f"workers={workers}")


def test_a_precision_that_the_device_lacks_is_refused_before_the_run_directory_exists(
    tmp_path: Path,
) -> None:
    with pytest.raises(UnsupportedPrecision, match="fp16 is slow and inexact on a CPU"):
        run(train_config(tmp_path, "precision=fp16"))
    assert not (tmp_path / "run").exists()


def test_gpus_train_in_tf32_and_cpus_in_fp32_unless_a_precision_is_set(tmp_path: Path) -> None:
    on_gpus = "workers={count: null, num_gpus: 1}"
    assert train_config(tmp_path, on_gpus).precision == "tf32"
    assert train_config(tmp_path, on_gpus, "precision=bf16").precision == "bf16"
    assert train_config(tmp_path).precision == "fp32"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_in_this_process_that_wants_a_gpu_says_that_it_trains_on_the_cpu(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    short = ("phases.vae.steps=1", "phases.quantize.steps=0", "validation.shards=[]")
    run(train_config(tmp_path, *short, "workers.num_gpus=1"))
    assert "this machine has no GPU: training on the CPU" in caplog.text


class Waits(TorchDispatchMode):
    """Collects the operations for which a host waits for its GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        places = args[1] if name in ("index", "index_put_") else []
        by_mask = any(place is not None and place.dtype == torch.bool for place in places)
        if name in WAITING or by_mask:
            self.found.append(name)
        return func(*args, **(kwargs or {}))


WAITING = {"_local_scalar_dense", "is_nonzero", "_unique2", "bincount", "masked_select"}


def test_a_step_waits_for_the_device_only_to_copy_its_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, waits = Trainer._update, Waits()

    def watched(*arguments: Any) -> dict[str, float]:
        with waits:
            return update(*arguments)

    monkeypatch.setattr(Trainer, "_update", watched)
    monkeypatch.setattr(Optimizer, "step", lambda *_: None)  # on a CPU, AdamW reads its counter
    steps = ("phases.vae.steps=1", "phases.quantize.steps=3", "phases.quantize.adversarial_from=1")
    run(train_config(tmp_path, *steps, SMALL, "validation.shards=[]"))
    assert waits.found == []


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
    overrides = ["phases.quantize.adversarial_from=2", SMALL, "log.every=1"]
    whole = run(train_config(tmp_path, *overrides, output="whole"))
    config = train_config(tmp_path, *overrides, output="crashed")
    run_until(config, 11)
    assert tree(run(config), "curves") == tree(whole, "curves")
    rows = (whole / "curves" / "step-00000009.jsonl").read_text().splitlines()
    assert ["discriminators" in json.loads(row) for row in rows] == [False, False, True]


def test_discriminators_learn_at_the_rate_of_the_phase_times_their_factor(tmp_path: Path) -> None:
    def trained(factor: float, lr: float) -> dict[str, Tensor]:
        overrides = ["phases.quantize.adversarial_from=0", SMALL, "phases.vae.steps=1"]
        overrides += [f"phases.quantize.lr={lr}", f"discriminators.lr_factor={factor}"]
        overrides += ["phases.quantize.steps=1", "validation.shards=[]"]
        root = run(train_config(tmp_path, *overrides, output=f"{factor}-{lr}"))
        saved = Checkpoints(str(root), Storage(), keep=3).latest()
        assert saved
        state: dict[str, Tensor] = saved["judges"]
        return state

    still, once, four, same = (trained(*x) for x in ((0, 1e-3), (1, 1e-3), (4, 1e-3), (1, 4e-3)))
    assert all(torch.equal(four[name], same[name]) for name in four)
    for name, start in still.items():
        torch.testing.assert_close(four[name] - start, 4 * (once[name] - start), atol=1e-5, rtol=0)
    assert any(not torch.equal(four[name], start) for name, start in still.items())


def test_bf16_trains_too(tmp_path: Path) -> None:
    root = run(train_config(tmp_path, "precision=bf16", "phases.vae.steps=2"))
    assert (root / "last.safetensors").exists()
