"""`speechmill export`: a token dataset in the format and the pattern of a trainer."""

from dataclasses import dataclass

from speechmill.jobs.display import Display, require_files
from speechmill.jobs.existing_dataset import check_codebooks, open_dataset
from speechmill.pipeline.dataset.export.exporter import Export, export_dataset
from speechmill.pipeline.dataset.export.folder import DESCRIPTION
from speechmill.pipeline.dataset.export.formats import FORMATS
from speechmill.pipeline.dataset.export.ids import Ids, PatternIds, TemplateIds
from speechmill.pipeline.dataset.layout import TokenDataset, readable
from speechmill.pipeline.dataset.pattern import Pattern
from speechmill.pipeline.dataset.patterns import make_pattern
from speechmill.pipeline.dataset.templates import make_template
from speechmill.pipeline.dataset.text_tokenizers import load_tokenizer
from speechmill.pipeline.dataset.where import Where
from speechmill.pipeline.errors import InputError, check_choice
from speechmill.pipeline.storage import join


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """The flags of the command; None for one that was not given."""

    format: str = "parquet"
    where: str | None = None
    codebooks: int | None = None
    pattern: str = "parallel"
    flat: bool = False
    shifts: str | None = None
    coarse: int | None = None
    frames: int | None = None
    first_id: int | None = None
    template: str | None = None
    tokenizer: str | None = None
    text_size: int | None = None
    multiple: int | None = None
    without_text: str | None = None


def export(
    root: str, output: str, options: ExportOptions, overrides: list[str], display: Display
) -> None:
    """Write the parts that are not there yet or changed; run it again to resume."""
    check_choice("format", options.format, FORMATS)
    dataset = open_dataset(root, overrides)
    wanted = _export(dataset, options)
    output = dataset.storage.absolute(output)
    parts = documents = 0
    for record in export_dataset(dataset, output, wanted):
        display.line(f"{record.part}  {record.documents} documents")
        parts, documents = parts + 1, documents + record.documents
    require_files([join(output, DESCRIPTION)], dataset.storage)
    display.line(f"{parts} parts of {documents:,} documents to {output}")


def _export(dataset: TokenDataset, options: ExportOptions) -> Export:
    with readable(dataset.root):
        sizes = tuple(int(size) for size in dataset.require_identity()["codebook_sizes"])
    codebooks = check_codebooks(options.codebooks, len(sizes), "the dataset")
    return Export(
        format=options.format,
        ids=_ids(_pattern(sizes[:codebooks], options), options),
        codebooks=codebooks,
        where=Where(options.where) if options.where is not None else None,
    )


def _pattern(sizes: tuple[int, ...], options: ExportOptions) -> Pattern:
    shifts = None if options.shifts is None else _numbers(options.shifts)
    settings = {"shifts": shifts, "coarse": options.coarse, "frames": options.frames}
    given = {name: value for name, value in settings.items() if value is not None}
    pattern = make_pattern(options.pattern, sizes, **given)
    return pattern.flat() if options.flat or FORMATS[options.format].one_sequence else pattern


def _ids(pattern: Pattern, options: ExportOptions) -> Ids:
    names = ("tokenizer", "text_size", "multiple", "without_text")
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    if options.template is None:
        if given:
            flag = min(given).replace("_", "-")
            raise InputError(f"--{flag} is for documents with text; set --template too")
        return PatternIds(pattern, options.first_id or 0)
    if options.first_id is not None:
        raise InputError("--first-id is for exports without a template; set --text-size")
    if "tokenizer" in given:
        given["tokenizer"] = load_tokenizer(given["tokenizer"])
    return TemplateIds(make_template(pattern, options.template, **given))


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(",") if number)
    except ValueError as error:
        raise InputError(f"shifts is {text!r}; write numbers like 0,1,2") from error
