"""The rules for imports in the design, checked by reading every import."""

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

PACKAGES = {
    name: REPOSITORY / name / "speechmill" / name for name in ("codecs", "pipeline", "jobs")
}
BELOW = {"codecs": set(), "pipeline": {"codecs"}, "jobs": {"codecs", "pipeline"}}
Graph = dict[str, set[str]]


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


def module_name(path: Path) -> str:
    source = next(root for name, root in PACKAGES.items() if path.is_relative_to(root))
    parts = path.relative_to(source.parents[1]).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def users(package: str, library: str) -> list[str]:
    """Files of a package that import a library, by their path below it."""
    return [
        str(path.relative_to(PACKAGES[package]))
        for path in files(package)
        if library in {name.split(".")[0] for name in imports(path)}
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_run_one_way(package):
    forbidden = {f"speechmill.{other}" for other in set(PACKAGES) - BELOW[package] - {package}}
    for path in files(package):
        used = {".".join(name.split(".")[:2]) for name in imports(path)}
        assert not forbidden & used, path


@pytest.mark.parametrize("package", PACKAGES)
def test_speechmill_is_a_namespace_package(package):
    assert not (PACKAGES[package].parent / "__init__.py").exists()
    assert [path.name for path in PACKAGES[package].parent.glob("[!_]*")] == [package]


def test_one_codec_never_imports_another():
    folders = [p for p in PACKAGES["codecs"].iterdir() if (p / "__init__.py").exists()]
    families = {p.name for p in folders} - {"nn"}
    for name in families:
        others = {f"speechmill.codecs.{other}" for other in families - {name}}
        for path in (PACKAGES["codecs"] / name).rglob("*.py"):
            used = {".".join(module.split(".")[:3]) for module in imports(path)}
            assert not others & used, path


def test_the_pipeline_names_no_codec():
    for path in files("pipeline"):
        used = {m for m in imports(path) if m.startswith("speechmill.codecs.")}
        assert {m.split(".")[2] for m in used} <= {
            "api",
            "checkpoint",
            "cuda_graphs",
            "errors",
            "family",
            "fetch",
            "precision",
            "self_check",
            "shapes",
            "load_codec",
            "codec_card",
            "codec_info",
            "codec_packages",
            "Codec",
            "CodecInfo",
        }, path


def test_only_a_few_files_import_ray_and_fsspec():
    assert users("pipeline", "ray") == [
        "run/ray_address.py",
        "run/ray_calls.py",
        "run/ray_cluster.py",
        "run/ray_local.py",
        "run/ray_nodes.py",
        "run/ray_pool.py",
        "run/ray_process.py",
        "run/ray_survey.py",
        "run/ray_worker.py",
        "run/ray_workers.py",
    ]
    assert users("pipeline", "fsspec") == ["filesystems.py"]
    assert users("jobs", "ray") == ["training/distributed.py"]
    assert users("jobs", "fsspec") == []
    assert users("pipeline", "webdataset") == ["shards/webdataset.py"]
    assert users("jobs", "webdataset") == []


def test_no_private_module_of_ray_is_imported():
    tests = (REPOSITORY / "tests").rglob("*.py")
    for path in (*(file for package in PACKAGES for file in files(package)), *tests):
        assert not {name for name in imports(path) if name.startswith("ray.") and "._" in name}, (
            path
        )


def modules_loaded_by(code: str) -> set[str]:
    code = f"import sys; {code}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_codecs_needs_neither_torch_nor_ray_nor_pyarrow():
    assert not {"torch", "ray", "pyarrow"} & modules_loaded_by("import speechmill.codecs")


def test_the_facts_of_every_codec_are_known_without_torch():
    code = (
        "import speechmill.codecs as s;"
        "[s.codec_info(name, checkpoint='untrained') for name in s.list_codecs()];"
        "[s.codec_card(name) for name in s.list_codecs()]"
    )
    assert not {"torch", "transformers"} & modules_loaded_by(code)


def test_decoding_audio_needs_no_torch():
    code = (
        "import speechmill.pipeline.tokenize.decode;"
        "from speechmill.pipeline.audio.vad import load_network; load_network()"
    )
    assert not {"torch", "ray", "silero_vad"} & modules_loaded_by(code)


def test_a_plan_loads_torch_where_a_run_does():
    """Only beside the codec: the time that this takes is a part of the start that it measures."""
    for module in ("jobs.commands.plan.plan", "pipeline.tokenize.decode_part"):
        assert "torch" not in modules_loaded_by(f"import speechmill.{module}")


def find_cycle(graph: Graph) -> list[str]:
    """A cycle of the graph, as the names along it, or an empty list."""
    visited: set[str] = set()

    def walk(name: str, trail: list[str]) -> list[str]:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name not in visited:
            for target in sorted(graph[name]):
                if cycle := walk(target, [*trail, name]):
                    return cycle
            visited.add(name)
        return []

    return next((cycle for name in sorted(graph) if (cycle := walk(name, []))), [])


def module_graph() -> Graph:
    modules = {module_name(path): path for name in PACKAGES for path in files(name)}
    return {
        name: {m for m in imports(path) if m in modules and m != name}
        for name, path in modules.items()
    }


def room(module: str) -> str:
    """The folder of a module; a module directly in a package is a room of its own."""
    return ".".join(module.split(".")[:3])


def test_no_modules_import_each_other_in_a_circle():
    assert find_cycle(module_graph()) == []


def test_no_folders_import_each_other_in_a_circle():
    rooms: Graph = defaultdict(set)
    for module, targets in module_graph().items():
        rooms[room(module)] |= {room(target) for target in targets} - {room(module)}
    assert find_cycle(dict(rooms)) == []


def test_a_cycle_is_found():
    assert find_cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
