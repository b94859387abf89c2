"""What a command says about files that it leaves out."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from speechmill.pipeline.links import PassedOver

_NAMED = 5  # of the files that one reason leaves out
_REASONS = 20  # that are named; each unknown extension is one


def passed_over_lines(passed_over: Sequence[PassedOver]) -> Iterator[str]:
    """Yield for each reason how many files and folders it leaves out, and the first of them."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for one in passed_over:
        by_reason[one.reason].append(one.url)
    ordered = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    for reason, urls in ordered[:_REASONS]:
        first = ", ".join(urls[:_NAMED]) + (", …" if len(urls) > _NAMED else "")
        yield _shown(f"passed over {len(urls)}, {reason}: {first}")
    if rest := ordered[_REASONS:]:
        num_files = sum(len(urls) for _, urls in rest)
        yield f"passed over {num_files} for {len(rest)} more reasons, as {_shown(rest[0][1][0])}"


def passed_over_summary(passed_over: Sequence[PassedOver]) -> str:
    """How many files and folders each reason leaves out."""
    reasons = Counter(one.reason for one in passed_over).most_common()
    named = [f"{count} {_shown(reason)}" for reason, count in reasons[:_REASONS]]
    more = [f"{len(reasons) - _REASONS} more reasons"] if len(reasons) > _REASONS else []
    return "; ".join([*named, *more])


def _shown(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()
