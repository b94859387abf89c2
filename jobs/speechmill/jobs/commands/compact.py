"""`speechmill compact`: the parts of a token dataset as few large files."""

from speechmill.jobs.display import Display
from speechmill.jobs.existing_dataset import last_summary, open_dataset
from speechmill.pipeline.dataset.compact.files import (
    check_threads,
    finish,
    is_finished,
    write_files,
)
from speechmill.pipeline.dataset.compact.plan import CompactionPlan, parts_since, recorded_plan
from speechmill.pipeline.dataset.drop import drop_rows
from speechmill.pipeline.dataset.layout import TokenDataset, readable
from speechmill.pipeline.dataset.row_groups import INDEX, read_index
from speechmill.pipeline.errors import DatasetConflict, InputError
from speechmill.pipeline.run.run_log import run_ids
from speechmill.pipeline.storage import join
from speechmill.pipeline.tokenize.drops import SCHEMA


def compact_dataset(
    root: str,
    output: str,
    *,
    file_mb: float,
    without_failed: bool,
    threads: int,
    overrides: list[str],
    display: Display,
) -> None:
    """Write the files that are not there yet, then the index; run it again to resume.

    Raises `DatasetConflict` for a compacted dataset that is finished and lacks newer parts, or if
    parts are replaced meanwhile, and `InputError` for a dataset from which `drop` was killed.
    """
    check_threads(threads)
    source = open_dataset(root, overrides)
    target = TokenDataset(source.storage.absolute(output).rstrip("/"), source.storage)
    if not is_finished(target):
        _refuse_undropped(source)
    plan = recorded_plan(source, target, file_mb, without_failed=without_failed)
    later = parts_since(plan, source, target)
    if is_finished(target):
        if later:
            raise DatasetConflict(
                f"{target.root} is finished, and {source.root} has {later} parts more by now; "
                "compact it into another folder, then delete this one"
            )
        _refuse_damaged(plan, target)
        display.line("nothing left to do")
        return
    _describe(plan, source, later, display)
    for file in write_files(plan, source, target, threads):
        display.line(
            f"{file.name}  {file.parts} parts, {file.rows:,} utterances, {file.row_groups} row "
            f"groups, {file.bytes / 1e6:.1f} MB"
        )
    parts_since(plan, source, target)  # raises if rows were dropped meanwhile
    finish(plan, source, target)
    display.done(target.root, [join(target.root, INDEX)], target.storage)


def _refuse_undropped(source: TokenDataset) -> None:
    """Raise `InputError` for rows that `drop` has recorded and not taken out: the copy has them."""
    if held := drop_rows(source, SCHEMA.empty_table(), dry_run=True).parts_changed:
        raise InputError(
            f"{held} parts of {source.root} hold what dropped/ names; run `speechmill drop "
            f"{source.root}` first"
        )


def _refuse_damaged(plan: CompactionPlan, target: TokenDataset) -> None:
    """Raise `InputError` for a finished dataset that has lost a file or its index."""
    index = join(target.root, INDEX)
    try:
        read_index(target)
    except InputError as error:
        raise InputError(f"{error}; delete {index}, and the same command makes it again") from error
    there = target.parts()
    for name in map(plan.name, range(len(plan.files))):
        if name not in there:
            raise InputError(
                f"{target.part_url(name)} is missing; delete {index}, and the same command makes "
                "both again"
            )


def _describe(plan: CompactionPlan, source: TokenDataset, later: int, display: Display) -> None:
    size = sum(part.bytes for part in plan.parts)
    display.line(f"dataset  {source.root}, {len(plan.parts)} parts, {size / 1e6:,.1f} MB")
    if plan.failed:
        display.line(f"failed   {len(plan.failed)} shards, whose rows will be missing")
    if later:
        display.line(f"later    {later} parts are newer than the plan, and will be missing")
    with readable(join(source.root, "runs")):
        runs = run_ids(source.root, source.storage)
        is_open = bool(runs) and last_summary(source, runs) is None
    if is_open:
        display.line("note     the last run did not end: parts that come later will be missing")
