import json

import pytest

from pipeline import run_log
from pipeline.run_log import RunLog


@pytest.mark.parametrize("file_bytes", [1, 300, 10**9])
def test_events_go_on_in_another_file_when_one_is_full_and_none_is_lost(
    tmp_path, storage, monkeypatch, file_bytes
):
    monkeypatch.setattr(run_log, "FILE_BYTES", file_bytes)
    log = RunLog(str(tmp_path), storage, "")
    for number in range(20):
        log.record("tick", number=number)
    log.finish("done", run_log.Totals())
    files = sorted((tmp_path / "runs" / log.run_id).glob("events*.jsonl"), key=lambda p: p.stem[6:])
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [line.get("number") for line in lines] == [*range(20), None]
    assert (len(files) > 1) == (file_bytes < 10**9)
