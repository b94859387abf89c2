"""What the doctor found, as lines for a person and as JSON for a script."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.text import Text

from speechmill.jobs.commands.doctor.checks import Finding, Result
from speechmill.jobs.commands.doctor.doctor import CONFIG
from speechmill.jobs.report.wording import counted
from speechmill.pipeline.text import shown

_STYLES = {
    Result.OK: "green",
    Result.WARNING: "yellow",
    Result.FAULT: "bold red",
    Result.SKIPPED: "dim",
}


def exit_code(found: Iterable[Finding]) -> int:
    """Return 0 if the run can start, 1 if it would fail, 2 if its configuration is wrong."""
    faults = {finding.check for finding in found if finding.result is Result.FAULT}
    return 2 if CONFIG in faults else int(bool(faults))


def print_finding(finding: Finding, console: Console) -> None:
    """Print one line, however long."""
    line = Text.assemble(
        (f"{finding.result:<7}", _STYLES[finding.result]),
        f"  {shown(finding.check):<9}  {shown(finding.message)}",
    )
    console.print(line, soft_wrap=True)


def print_summary(found: Sequence[Finding], of_run: bool, console: Console) -> None:
    """Print the last line: how many faults there are, and what that means."""
    counts = Counter(finding.result for finding in found)
    what = "the run" if of_run else "a run"
    end = f"{what} would fail" if counts[Result.FAULT] else f"{what} can start"
    faults, warnings = (
        counted(counts[Result.FAULT], "fault"),
        counted(counts[Result.WARNING], "warning"),
    )
    console.print(Text(f"{faults}, {warnings}: {end}"))


def findings_json(found: Sequence[Finding]) -> str:
    """Return the lines with their results; `exit_code` is that of the command."""
    checks = [asdict(finding) for finding in found]
    return json.dumps({"exit_code": exit_code(found), "checks": checks}, indent=2)
