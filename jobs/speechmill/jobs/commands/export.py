"""`speechmill export`: a token dataset in the format and the pattern of a trainer."""

from speechmill.jobs.display import Display, require_files
from speechmill.jobs.existing_dataset import check_codebooks, open_dataset
from speechmill.pipeline.dataset.export import export_parts
from speechmill.pipeline.dataset.layout import readable
from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.errors import InputError
from speechmill.pipeline.storage import join


def export_dataset(
    root: str,
    output: str,
    kind: str,
    pattern: str,
    *,
    codebooks: int | None,
    shifts: str,
    first_id: int,
    overrides: list[str],
    display: Display,
) -> None:
    """Write the parts that are not there yet; run it again to resume."""
    dataset = open_dataset(root, overrides)
    with readable(dataset.root):
        sizes = tuple(int(size) for size in dataset.require_identity()["codebook_sizes"])
    num_codebooks = check_codebooks(codebooks, len(sizes), "the dataset")
    settings = {"shifts": _numbers(shifts)} if shifts else {}
    chosen = make_pattern(pattern, sizes[:num_codebooks], **settings)
    storage = dataset.storage
    output = storage.absolute(output)
    parts = rows = 0
    for _, count in export_parts(dataset, output, storage, kind, chosen, first_id):
        parts, rows = parts + 1, rows + count
    require_files([join(output, "export.json")], storage)
    display.line(f"{parts} parts of {rows:,} utterances to {output}")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number)
    except ValueError as error:
        raise InputError(f"shifts is {text!r}; write numbers like 0,1,2") from error
