"""`speechmill report`: a dataset with all of its runs, or one run, as an HTML page."""

from speechmill.jobs.display import require_files
from speechmill.jobs.existing_dataset import open_dataset
from speechmill.jobs.report.dataset_page import PageOptions, dataset_page
from speechmill.jobs.report.run_page import write_report
from speechmill.pipeline.errors import InputError, StorageError
from speechmill.pipeline.storage import join

_MOST_CLIPS = 100  # a browser must hold their pictures


def report_dataset(
    root: str, options: PageOptions, overrides: list[str], html: str | None = None
) -> str:
    """Write the page of a dataset, by default as its `report.html`, and return its URL."""
    if not 0 <= options.clips <= _MOST_CLIPS:
        raise InputError(f"--audio is {options.clips}; give 0 to {_MOST_CLIPS} utterances")
    dataset = open_dataset(root, overrides)
    page = dataset_page(dataset, options, overrides, with_links=html is None)
    url = html or join(dataset.root, "report.html")
    try:
        dataset.storage.put(url, page.encode())
    except StorageError as error:
        raise type(error)(f"{error}; --html FILE writes the page elsewhere") from error
    require_files([url], dataset.storage)
    return url


def report_run(root: str, run_id: str, overrides: list[str], html: str | None = None) -> str:
    """Write the page of one run, by default into its folder, and return its URL."""
    return write_report(open_dataset(root, overrides), run_id, html)
