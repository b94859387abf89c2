"""`speechmill verify` on a dataset that this process makes; tests/pipeline tests the checks."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from speechmill.codecs import codec_info
from speechmill.jobs.cli import app
from speechmill.pipeline.tokenize.canary import reference_codes
from tests.jobs.datasets import make_dataset

ROWS = 8


@pytest.fixture(params=["null"])
def output(request, tmp_path) -> str:
    return make_dataset(tmp_path, request.param).root


def verify(output: str, *arguments: str) -> Result:
    """With the folder of the tars as the source."""
    source = f"{Path(output).parent}/in"
    return CliRunner().invoke(app, ["verify", output, "--source", source, *arguments])


@pytest.mark.parametrize("output", ["pure-16k-small"], indirect=True)
def test_a_sound_dataset_encodes_to_the_same_tokens_again(output):
    done = verify(output, "--reencode", "5", "codec.device=cpu")
    assert done.exit_code == 0, done.output
    assert "encoded again      5 rows on cpu" in done.output
    assert "0.00% 0.00% 0.00% 0.00%" in done.output
    assert "faults             0" in done.output


def test_codes_that_differ_from_the_audio_are_counted_by_codebook(tmp_path, output):
    path = sorted((tmp_path / "out" / "tokens").iterdir())[0]
    table = pq.read_table(path)
    codes = table["codes"].to_pylist()
    codes[0][2] ^= 1
    column = pa.array(codes, type=table.schema.field("codes").type)
    pq.write_table(table.set_column(1, table.schema.field("codes"), column), path)
    done = verify(output, "--reencode", f"{ROWS}", "--json", "codec.device=cpu")
    found = json.loads(done.stdout)
    assert done.exit_code == 1
    assert [share > 0 for share in found["reencoded"]["shares"]] == [book == 2 for book in range(8)]
    assert [fault["check"] for fault in found["faults"]] == ["reencode"]
    assert verify(output, "--reencode", f"{ROWS}", "--tolerance", "0.5").exit_code == 0


def test_a_machine_that_does_not_give_the_codes_of_the_canary_is_a_fault(tmp_path, output):
    info = codec_info("null")
    options = {"name": "null", "device": "cpu", "precision": "fp32"}
    canary = reference_codes(info, options).to_json()
    path = tmp_path / "out" / "dataset.json"
    identity = json.loads(path.read_text())
    path.write_text(json.dumps({**identity, "canary": canary}))
    done = verify(output, "--reencode", "1", "codec.device=cpu")
    assert (done.exit_code, "100.00% of its codes are equal" in done.output) == (0, True)
    wrong = {**canary, "codes": canary["codes"][::-1]}
    path.write_text(json.dumps({**identity, "canary": wrong}))
    done = verify(output, "--reencode", "1", "codec.device=cpu")
    assert (done.exit_code, "this machine gives only 0% of the" in done.output) == (1, True)


def test_missing_or_changed_audio_is_a_fault_of_reencoding(tmp_path, output):
    for tar in (tmp_path / "in").iterdir():
        tar.unlink()
    done = verify(output, "--reencode", "2", "codec.device=cpu")
    assert done.exit_code == 1
    assert done.output.count("StorageNotFound") == 2
    assert "2 source tars cannot be read" in done.output


def test_without_a_source_nothing_is_encoded_again_and_a_note_says_so(output):
    done = CliRunner().invoke(app, ["verify", output, "--reencode", "5"])
    assert done.exit_code == 0, done.output
    assert "nothing is read again: name the folder of the source tars by --source" in done.output


def test_another_checkpoint_than_the_one_that_made_the_tokens_is_refused(output):
    done = verify(output, "--reencode", "1", "codec.device=cpu", "codec.name=pure-16k-small")
    assert done.exit_code == 2
    assert "holds tokens of revision" in done.stderr


def test_the_weights_of_a_dataset_are_named_on_the_command_line(tmp_path, output):
    identity = tmp_path / "out" / "dataset.json"
    identity.write_text(json.dumps({**json.loads(identity.read_text()), "revision": "0" * 16}))
    [config] = (tmp_path / "out").glob("runs/*/config.yaml")
    config.write_text(config.read_text().replace("checkpoint: null", "checkpoint: /my/w.pt"))
    done = verify(output, "--reencode", "1", "codec.device=cpu")
    assert done.exit_code == 2
    assert "set codec.checkpoint to the one that made them" in done.stderr
    assert "the run that made them had codec.checkpoint='/my/w.pt'" in done.stderr


def test_of_the_configuration_of_a_dataset_only_numbers_are_used(tmp_path, output):
    [config] = (tmp_path / "out").glob("runs/*/config.yaml")
    options = "{checkpoint: 3, name: 4, device: 5, compile: 6}"
    config.write_text(f"limits: {{seconds: 0.01, member_mb: x}}\ncodec: {{options: {options}}}\n")
    done = verify(output, "--reencode", "9", "codec.device=cpu")
    assert done.output.count("OversizedAudio") == ROWS
    done = verify(output, "--reencode", "9", "codec.device=cpu", "limits.seconds=9")
    assert done.exit_code == 0, done.output
    laughs = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 20)]
    for text in (
        "limits: {seconds: .inf, member_mb: .nan}",
        "\n".join(["a0: &a0 {x: 1}", *laughs]),
    ):
        config.write_text(text)
        assert verify(output, "--reencode", "9", "codec.device=cpu").exit_code == 0


def test_a_quality_function_of_the_command_line_judges_the_rows(output):
    quality = ["filters.quality=tests.quality_scores:peak", "filters.min_quality=1e9"]
    done = verify(output, "--reencode", "9", "codec.device=cpu", *quality)
    assert done.output.count("LowQuality") == ROWS


@pytest.mark.parametrize("output", ["pure-16k-small"], indirect=True)
def test_a_dataset_without_the_log_of_a_run_is_encoded_again_by_its_identity(tmp_path, output):
    shutil.rmtree(tmp_path / "out" / "runs")
    done = verify(output, "--reencode", "2", "codec.device=cpu")
    assert (done.exit_code, "2 rows on cpu" in done.output) == (0, True)


def test_faults_are_listed_and_set_the_exit_code(tmp_path, output):
    (tmp_path / "out" / "tokens" / "stray.txt").write_text("?")
    done = verify(output)
    assert done.exit_code == 1
    assert "fault  name  tokens/stray.txt" in done.output


def test_recordings_are_decoded_again_with_a_second_decoder(output):
    done = verify(output, "--redecode", f"{ROWS}")
    assert done.exit_code == 0, done.output
    assert f"{ROWS} recordings; for 0 there is no second decoder" in done.output


def test_a_row_that_is_shorter_than_its_recording_is_found_by_decoding_again(tmp_path, output):
    path = sorted((tmp_path / "out" / "tokens").iterdir())[0]
    table = pq.read_table(path)
    place = table.schema.get_field_index("end")
    column = pa.array([end / 2 for end in table["end"].to_pylist()], pa.float64())
    pq.write_table(table.set_column(place, table.schema.field(place), column), path)
    found = json.loads(verify(output, "--redecode", f"{ROWS}", "--json").stdout)
    faults = [fault["message"] for fault in found["faults"] if fault["check"] == "redecode"]
    assert len(faults) == len(table)
    assert all("the row has" in message for message in faults)
