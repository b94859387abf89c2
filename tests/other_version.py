"""Make Python believe that another version of a package is installed."""

from pathlib import Path


def pretend_version(folder: Path, package: str, version: str) -> None:
    """Write the metadata of a package; it counts where the folder is before the real one."""
    metadata = folder / f"{package}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
