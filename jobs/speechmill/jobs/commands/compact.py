"""`speechmill compact`: the parts of a token dataset as few large files."""

from speechmill.jobs.display import Display
from speechmill.jobs.existing_dataset import last_summary, open_dataset
from speechmill.pipeline.dataset.compact.files import finish, is_finished, write_files
from speechmill.pipeline.dataset.compact.plan import CompactionPlan, parts_since, recorded_plan
from speechmill.pipeline.dataset.layout import TokenDataset
from speechmill.pipeline.dataset.row_groups import INDEX
from speechmill.pipeline.errors import DatasetConflict
from speechmill.pipeline.storage import join


def compact_dataset(
    root: str,
    output: str,
    *,
    file_mb: float,
    without_failed: bool,
    overrides: list[str],
    display: Display,
) -> None:
    """Write the files that are not there yet, then the index; run it again to resume.

    Raises `DatasetConflict` for a compacted dataset that is finished and lacks newer parts.
    """
    source = open_dataset(root, overrides)
    target = TokenDataset(source.storage.absolute(output).rstrip("/"), source.storage)
    plan = recorded_plan(source, target, file_mb, without_failed=without_failed)
    later = parts_since(plan, source, target)
    if is_finished(target):
        if later:
            raise DatasetConflict(
                f"{target.root} is finished, and {source.root} has {later} parts more by now; "
                "compact it into another folder, then delete this one"
            )
        display.line("nothing left to do")
        return
    _describe(plan, source, later, display)
    with display.bar("compacting", len(plan.files)):
        for file in write_files(plan, source, target):
            display.line(
                f"{file.name}  {file.parts} parts, {file.rows:,} utterances, {file.row_groups} row "
                f"groups, {file.bytes / 1e6:.1f} MB"
            )
    finish(plan, source, target)
    display.done(target.root, [join(target.root, INDEX)], target.storage)


def _describe(plan: CompactionPlan, source: TokenDataset, later: int, display: Display) -> None:
    size = sum(part.bytes for part in plan.parts)
    display.line(f"dataset  {source.root}, {len(plan.parts)} parts, {size / 1e6:,.1f} MB")
    if plan.failed:
        display.line(f"failed   {len(plan.failed)} shards, whose rows will be missing")
    if later:
        display.line(f"later    {later} parts are newer than the plan, and will be missing")
    if last_summary(source) is None:
        display.line("note     the last run did not end: parts that come later will be missing")
