"""What the dashboard and the rules ask for is what a run counts."""

import json
import re
from pathlib import Path

import yaml

from speechmill.pipeline import metrics

INFRA = Path(__file__).parents[2] / "infra"
DASHBOARD = json.loads((INFRA / "grafana" / "speechmill.json").read_text())
RULES = yaml.safe_load((INFRA / "prometheus" / "rules.yml").read_text())
SERIES = {
    f"ray_speechmill_{metric.name}" + ("" if metric.is_gauge else "_total"): metric
    for metric in metrics.ALL
}


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def rules() -> list[dict]:
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def asked_for(queries: list[str]) -> set[str]:
    return {name for query in queries for name in re.findall(r"ray_speechmill_\w+", query)}


def test_the_dashboard_shows_every_metric_and_no_other():
    assert asked_for(dashboard_queries()) == SERIES.keys()


def test_the_rules_ask_for_metrics_that_there_are():
    assert asked_for([rule["expr"] for rule in rules()]) <= SERIES.keys()
    made = {rule["record"] for rule in rules() if "record" in rule}
    assert {
        name for rule in rules() for name in re.findall(r"speechmill:\w+", rule["expr"])
    } <= made


def test_queries_split_by_labels_that_the_metrics_have():
    for query in dashboard_queries():
        for label, name in re.findall(r"by \((\w+)\) \((?:rate\()?(ray_speechmill_\w+)", query):
            assert label in SERIES[name].labels, query


def test_panels_neither_overlap_nor_leave_the_grid():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(columns) < 24
        taken |= cells
