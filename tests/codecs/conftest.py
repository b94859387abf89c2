"""Fixtures of codec tests: one thread for small networks, and a count of ties at the end."""

from collections.abc import Iterator

import pytest
import torch

from tests.codecs.tokens import SEEN, TIE


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """Such small layers finish before a second thread starts."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if SEEN["tokens"]:
        terminalreporter.write_line(
            f"{SEEN['ties']} of {SEEN['tokens']} tokens in batches differ from those of the clip "
            f"alone, each by a tie: a decision margin under {TIE}"
        )
