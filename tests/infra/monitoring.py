"""What the dashboard shows and what the rules ask."""

import json
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parents[2] / "infra"
DASHBOARD = json.loads((FOLDER / "grafana" / "speechmill.json").read_text())
RULES = yaml.safe_load((FOLDER / "prometheus" / "rules.yml").read_text())


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def rules() -> list[dict[str, Any]]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]
