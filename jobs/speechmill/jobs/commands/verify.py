"""`speechmill verify`: read a whole token dataset, and encode some of it again."""

from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console

from speechmill.codecs import Codec
from speechmill.codecs.shapes import plan_shapes
from speechmill.jobs.display import facts_table, print_line
from speechmill.jobs.existing_dataset import (
    dataset_config,
    load_dataset_codec,
    open_dataset,
)
from speechmill.pipeline.dataset.layout import TokenDataset, recorded_batch
from speechmill.pipeline.dataset.section_rows import sections_below
from speechmill.pipeline.dataset.verify import Finding, Verification, verify_files
from speechmill.pipeline.foreign import Roots


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Rows that were encoded again, one by one, compared with their tokens."""

    rows: int
    frames: int
    device: str
    shares: list[float]  # of the codes that differ, per codebook
    canary: float | None  # share of a known clip's codes that this machine gives as the first run


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """Which checks `speechmill verify` makes."""

    keys: bool | None = None  # compare with the source tars; None: if they can be read
    unique_keys: bool = False
    reencode: int = 0  # rows
    redecode: int = 0  # recordings
    seed: int = 0  # of the choice of rows
    tolerance: float | None = None  # share of codes of a codebook that may differ
    sources: tuple[str, ...] = ()  # folders or tars; no tar is read elsewhere


def verify_dataset(
    root: str, options: VerifyOptions, overrides: list[str]
) -> tuple[Verification, Mismatch | None]:
    """Check the files, and encode some rows again; raises `InputError` without a dataset."""
    dataset = open_dataset(root, overrides)
    found = verify_files(
        dataset, sources=options.sources, keys=options.keys, unique_keys=options.unique_keys
    )
    again = options.reencode or options.redecode
    if not again or any(fault.check == "unreadable" for fault in found.faults):
        return found, None
    if not sections_below(dataset, Roots.of(options.sources, dataset.storage)):
        message = "nothing is read again: name the folder of the source tars by --source"
        found.notes.append(Finding("source", dataset.identity_file, message))
        return found, None
    if options.redecode:
        _redecode(dataset, options, overrides, found)
    return found, _reencode(dataset, options, overrides, found) if options.reencode else None


def _redecode(
    dataset: TokenDataset, options: VerifyOptions, overrides: list[str], found: Verification
) -> None:
    """Add a fault for each recording on which two decoders or its row disagree."""
    from speechmill.pipeline.dataset.redecode import redecode

    roots = Roots.of(options.sources, dataset.storage)
    settings = dataset_config(dataset, overrides).decode_settings()
    for one in redecode(dataset, roots, options.redecode, settings, options.seed):
        found.redecoded += 1
        found.redecoded_by_one += not one.has_other
        if one.error:
            file = f"tokens/{one.part}.parquet"
            found.faults.append(Finding("redecode", file, f"{one.key!r}: {one.error}"))


def _reencode(
    dataset: TokenDataset, options: VerifyOptions, overrides: list[str], found: Verification
) -> Mismatch:
    from speechmill.pipeline.dataset.reencode import reencode
    from speechmill.pipeline.tokenize.encode import device_kind

    config = dataset_config(dataset, overrides)
    codec, device = load_dataset_codec(dataset, config)
    codec = _in_batches(dataset, codec, device)
    canary = _canary(dataset, codec, config.codec.precision, found)
    frames, wrong = 0, [0] * codec.info.num_codebooks
    roots, settings = Roots.of(options.sources, dataset.storage), config.decode_settings()
    rows = list(reencode(dataset, roots, options.reencode, codec, settings, options.seed))
    for row in rows:
        file = f"tokens/{row.part}.parquet"
        if row.error:
            found.faults.append(Finding("reencode", file, f"{row.place}: {row.error}"))
            continue
        frames += row.num_frames
        wrong = [a + b for a, b in zip(wrong, row.mismatches, strict=True)]
        exact = row.device == device == "cpu"
        if _differs_too_much(row.mismatches, row.num_frames, options.tolerance, exact):
            message = f"{row.place}: {sum(row.mismatches)} codes differ"
            found.faults.append(Finding("reencode", file, message))
    shares = [n / max(frames, 1) for n in wrong]
    return Mismatch(len(rows), frames, device_kind(device), shares, canary)


def _in_batches(dataset: TokenDataset, codec: Codec, device: str) -> Codec:
    """Return what encodes on a GPU in the batches of the dataset."""
    import torch

    from speechmill.pipeline.tokenize.fixed_batches import BatchEncoder

    batch = recorded_batch(dataset.require_identity())
    if batch is None or not device.startswith("cuda"):
        return codec
    return BatchEncoder(codec, plan_shapes(codec.info, batch), torch.device(device))


def _canary(
    dataset: TokenDataset, codec: Codec, precision: str, found: Verification
) -> float | None:
    """Compare this machine with the canary of the dataset; a fault says that it is wrong."""
    from speechmill.codecs.self_check import encode_clip
    from speechmill.pipeline.tokenize.canary import equal_codes, least_equal, stored_reference

    reference = stored_reference(dataset.require_identity(), codec.info)
    if reference is None:
        return None
    share = equal_codes(encode_clip(codec), reference, precision)
    if share < least_equal(codec.info, precision):
        message = f"this machine gives only {share:.0%} of the canary's codes"
        found.faults.append(Finding("canary", dataset.identity_file, message))
    return share


def _differs_too_much(
    mismatches: tuple[int, ...], frames: int, tolerance: float | None, exact: bool
) -> bool:
    """Without a tolerance, require equality only if both runs used a CPU."""
    if tolerance is None:
        return exact and any(mismatches)
    return max(mismatches) > tolerance * frames


def verification_json(found: Verification, mismatch: Mismatch | None) -> dict[str, Any]:
    """Return the faults, the notes and the counts for a script."""
    return asdict(found) | {"reencoded": asdict(mismatch) if mismatch else None}


def print_verification(found: Verification, mismatch: Mismatch | None, console: Console) -> None:
    """Print a table, then every fault and note on a line."""
    facts = {
        "dataset": found.root,
        "parts": f"{found.parts}, {found.sources_read} compared with their tars",
        "utterances": f"{found.rows:,}, {found.frames:,} frames",
        "rejects": f"{found.rejects:,}",
    }
    if mismatch:
        shares = " ".join(f"{share:.2%}" for share in mismatch.shares)
        facts["encoded again"] = f"{mismatch.rows} rows on {mismatch.device}"
        facts["codes that differ"] = f"{shares} of {mismatch.frames:,} frames, by codebook"
        if mismatch.canary is not None:
            facts["canary"] = f"{mismatch.canary:.2%} of its codes are equal on this machine"
    if found.redecoded:
        facts["decoded again"] = (
            f"{found.redecoded} recordings; for {found.redecoded_by_one} there is no second decoder"
        )
    facts["faults"] = f"{len(found.faults)}"
    console.print(facts_table(facts))
    for word, findings in (("fault", found.faults), ("note ", found.notes)):
        for one in findings:
            line = f"{word}  {one.check}  {one.file}: {one.message}"
            print_line(console, line)
