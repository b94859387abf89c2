"""What design says of the imports, held by reading them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {
    "speech_codecs": ROOT / "codecs" / "speech_codecs",
    "pipeline": ROOT / "pipeline",
    "jobs": ROOT / "jobs",
}
BELOW = {"speech_codecs": set(), "pipeline": {"speech_codecs"}, "jobs": set(PACKAGES)}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, dotted, wherever in the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files(package: str) -> list[Path]:
    return sorted(PACKAGES[package].rglob("*.py"))


def users(package: str, module: str) -> list[str]:
    return [f.name for f in files(package) if module in {i.split(".")[0] for i in imports(f)}]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package):
    forbidden = set(PACKAGES) - BELOW[package] - {package}
    for path in files(package):
        assert not forbidden & {name.split(".")[0] for name in imports(path)}, path


def test_one_codec_never_imports_another():
    folders = [p for p in PACKAGES["speech_codecs"].iterdir() if (p / "__init__.py").exists()]
    codecs = {p.name for p in folders} - {"nn"}
    for name in codecs:
        others = {f"speech_codecs.{other}" for other in codecs - {name}}
        for path in (PACKAGES["speech_codecs"] / name).rglob("*.py"):
            used = {".".join(module.split(".")[:2]) for module in imports(path)}
            assert not others & used, path


def test_the_pipeline_names_no_codec():
    for path in files("pipeline"):
        used = {m for m in imports(path) if m.startswith("speech_codecs")}
        assert {m.split(".")[1] for m in used if "." in m} <= {
            "api",
            "checkpoint",
            "errors",
            "fetch",
            "load_codec",
            "codec_info",
            "Codec",
            "CodecInfo",
        }, path


def test_ray_and_fsspec_stay_behind_the_files_that_are_theirs():
    assert users("pipeline", "ray") == ["ray_metrics.py", "ray_pool.py", "ray_worker.py"]
    assert users("pipeline", "fsspec") == ["storage.py"]
    assert users("jobs", "ray") == ["train_workers.py"]
    assert users("jobs", "fsspec") == []


def test_importing_codecs_needs_neither_torch_nor_ray_nor_pyarrow():
    code = "import sys, speech_codecs; print({'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_facts_of_every_codec_are_known_without_torch():
    code = (
        "import sys, speech_codecs as s;"
        "[s.codec_info(name, checkpoint='untrained') for name in s.list_codecs()];"
        "[s.codec_card(name) for name in s.list_codecs()];"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_decoding_audio_needs_no_torch():
    code = "import sys, pipeline.tokens.decode; print({'torch', 'ray'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_there_are_no_import_cycles():
    modules = {module_name(path): path for name in PACKAGES for path in files(name)}
    edges = {
        name: {m for m in imports(path) if m in modules and m != name}
        for name, path in modules.items()
    }
    visited: set[str] = set()

    def walk(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in visited:
            for target in sorted(edges[name]):
                walk(target, (*trail, name))
            visited.add(name)

    for name in modules:
        walk(name, ())


def module_name(path: Path) -> str:
    root = ROOT / "codecs" if "speech_codecs" in path.parts else ROOT
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
