import json
import threading

import pytest

from speechmill.pipeline.errors import WorkerLost
from speechmill.pipeline.run import run_log
from speechmill.pipeline.run.run_log import RunLog, RunStatus
from speechmill.pipeline.run.runner import Event, EventKind, Totals
from speechmill.pipeline.shards.listing import Shard
from speechmill.pipeline.storage import Storage


@pytest.fixture
def log(tmp_path, storage):
    return RunLog(str(tmp_path), storage, "a: 1\n")


def event_files(log, tmp_path):
    paths = (tmp_path / "runs" / log.run_id).glob("events*.jsonl")
    return sorted(paths, key=lambda path: path.name.replace("events.", "events-0000."))


def events(log, tmp_path):
    texts = [path.read_text() for path in event_files(log, tmp_path)]
    return [json.loads(line) for text in texts for line in text.splitlines()]


def test_a_decision_is_logged_with_its_reason(log, tmp_path):
    shard = Shard("s3://b/x.tar", 1, "e")
    log.record_event(
        Event(
            EventKind.RETRY, shard, 2, error=WorkerLost("gone"), reason="the worker died", delay=1.5
        )
    )
    log.finish(RunStatus.DONE, Totals())
    [event, _] = events(log, tmp_path)
    assert (event["event"], event["shard"], event["attempts"]) == ("retry", shard.url, 2)
    assert (event["error"], event["message"]) == ("WorkerLost", "gone")
    assert (event["reason"], event["delay"]) == ("the worker died", 1.5)


def test_a_run_that_is_killed_soon_has_its_start_in_its_log(log, tmp_path):
    log.record(EventKind.RUN_STARTED, shards=7)
    log.record(EventKind.WORKER_READY)
    log._writing.result()
    [started] = events(log, tmp_path)
    assert (started["event"], started["shards"]) == ("run started", 7)


@pytest.mark.parametrize("file_bytes", [1, 300, 10**9])
def test_events_continue_in_another_file_when_one_is_full(
    tmp_path, storage, monkeypatch, file_bytes
):
    monkeypatch.setattr(run_log, "FILE_BYTES", file_bytes)
    log = RunLog(str(tmp_path), storage, "")
    for number in range(20):
        log.record(EventKind.WORKER_READY, number=number)
    log.finish(RunStatus.DONE, run_log.Totals())
    files = sorted((tmp_path / "runs" / log.run_id).glob("events*.jsonl"), key=lambda p: p.stem[6:])
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert [line.get("number") for line in lines] == [*range(20), None]
    assert (len(files) > 1) == (file_bytes < 10**9)


def test_a_log_that_cannot_be_written_does_not_end_the_run(log, tmp_path, caplog):
    (tmp_path / "runs" / log.run_id / "config.yaml").unlink()
    (tmp_path / "runs" / log.run_id).rmdir()
    (tmp_path / "runs" / log.run_id).write_text("in the way")
    log.finish(RunStatus.DONE, Totals())
    assert "the run goes on without" in caplog.text


def test_a_slow_store_does_not_delay_the_run(tmp_path, monkeypatch):
    released = threading.Event()
    monkeypatch.setattr(run_log, "FLUSH_SECONDS", -1.0)
    log = RunLog(str(tmp_path), Storage(), "")
    put = Storage.put
    monkeypatch.setattr(Storage, "put", lambda *a: (released.wait(30), put(*a))[1])
    for number in range(10):
        log.record(EventKind.WORKER_READY, number=number)
    released.set()
    log.finish(RunStatus.DONE, Totals())
    assert len(events(log, tmp_path)) == 11


def test_errors_of_any_text_are_logged_as_valid_utf8(log, tmp_path):
    shard = Shard("s3://b/x.tar", 1, "e")
    for error in (ValueError("x\udcf1"), MemoryError()):
        log.record_event(Event(EventKind.GIVE_UP, shard, 1, error=error, reason="\ud83d"))
    log.finish(RunStatus.FAILED, Totals())
    first, second, _ = events(log, tmp_path)
    assert (first["message"], first["reason"]) == ("x\ufffd", "\ufffd")
    assert second["message"] == "not enough memory"
