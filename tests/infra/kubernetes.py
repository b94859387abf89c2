"""Kubernetes objects of infra/kubernetes, and the schemas of KubeRay that they must fit."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "infra" / "kubernetes"
SCHEMAS = REPOSITORY.parent / "shared" / "schemas"
UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
Object = dict[str, Any]


def objects(path: Path) -> list[Object]:
    return list(yaml.safe_load_all(path.read_text()))


def find(file: str, kind: str) -> Object:
    [found] = [each for each in objects(FOLDER / file) if each["kind"] == kind]
    return found


def cluster_spec(custom: Object) -> Object:
    return custom["spec"].get("rayClusterSpec", custom["spec"])


def groups(custom: Object) -> list[Object]:
    """The group of the head, and those of the workers."""
    spec = cluster_spec(custom)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pods(custom: Object) -> list[Object]:
    """The specifications of all pods that an object describes."""
    templates = [group["template"] for group in groups(custom)]
    if "submitterPodTemplate" in custom["spec"]:
        templates.append(custom["spec"]["submitterPodTemplate"])
    return [template["spec"] for template in templates]


def amount(quantity: str) -> float:
    """A quantity such as 500m or 16Gi as a number."""
    digits = quantity.rstrip("KMGTikm")
    return float(digits) * UNITS[quantity.removeprefix(digits)]


@cache
def crd_schema(kind: str) -> Object:
    """The OpenAPI schema of KubeRay's v1 of a kind, which the API server holds objects to."""
    path = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not path.is_file():
        pytest.skip("no schemas of KubeRay at ../shared/schemas beside the checkout")
    versions = yaml.load(path.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["spec"]
    [found] = [each for each in versions["versions"] if each["name"] == "v1"]
    return strict(found["schema"]["openAPIV3Schema"])


def strict(schema: Any) -> Any:
    """A JSON schema that refuses unknown fields, which the API server would drop in silence."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    result = {name: strict(value) for name, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    return result


def values_of(node: Any, name: str) -> Iterator[Any]:
    """Every value below a node that has this name."""
    if isinstance(node, dict):
        if name in node:
            yield node[name]
        for value in node.values():
            yield from values_of(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from values_of(value, name)
