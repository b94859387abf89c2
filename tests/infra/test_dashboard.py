"""The dashboard is one that Grafana loads, and what it and the rules ask for is counted."""

import json
import re
from collections import Counter
from typing import Any

import pytest
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from speechmill.pipeline import errors, metrics
from tests.conftest import REPOSITORY
from tests.infra.monitoring import DASHBOARD, alerts, dashboard_queries, rules

SERIES = {
    f"ray_speechmill_{metric.name}" + ("" if metric.is_gauge else "_total"): metric
    for metric in metrics.ALL
}
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def asked_for(queries: list[str]) -> set[str]:
    return {name for query in queries for name in re.findall(r"ray_speechmill_\w+", query)}


def anchors(page: str) -> set[str]:
    titles = HEADING.findall((REPOSITORY / page).read_text())
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_dashboard_shows_every_metric_and_no_other():
    assert asked_for(dashboard_queries()) == SERIES.keys()


def test_the_rules_ask_for_metrics_that_there_are():
    assert asked_for([rule["expr"] for rule in rules()]) <= SERIES.keys()
    made = {rule["record"] for rule in rules() if "record" in rule}
    assert {
        name for rule in rules() for name in re.findall(r"speechmill:\w+", rule["expr"])
    } <= made


def test_the_rules_name_labels_and_reasons_that_there_are():
    for rule in rules():
        for name, matchers in re.findall(r"(ray_speechmill_\w+)\{(.*?)\}", rule["expr"]):
            labels = re.findall(r'(\w+)[!=~]+"([^"]*)"', matchers)
            assert {label for label, _ in labels} <= set(SERIES[name].labels)
            reasons = [value.split("|") for label, value in labels if label in ("reason", "error")]
            assert all(hasattr(errors, reason) for each in reasons for reason in each)


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_has_a_severity_and_a_section_of_the_runbook(alert):
    assert alert["labels"]["severity"] in ("critical", "warning")
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    assert anchor == alert["alert"].lower()
    assert anchor in anchors(page)


def test_grafana_knows_every_key_and_value_of_the_dashboard():
    register_default_plugins()
    known = json.loads(JSONEncoder().encode(Dashboard.from_json(DASHBOARD)))
    assert lost(DASHBOARD, known) == []


def lost(given: Any, known: Any, place: str = "") -> list[str]:
    """The places where a model of Grafana, which fills in its defaults, drops what it was given."""
    if isinstance(given, dict) and isinstance(known, dict):
        pairs = [(value, known.get(key), f"{place}.{key}") for key, value in given.items()]
    elif isinstance(given, list) and isinstance(known, list) and len(given) == len(known):
        pairs = [(*pair, f"{place}[{i}]") for i, pair in enumerate(zip(given, known, strict=True))]
    else:
        return [] if given == known else [place]
    return [each for one, other, where in pairs for each in lost(one, other, where)]


def test_every_panel_has_an_id_a_unit_and_the_source_that_the_reader_chooses():
    [variable] = DASHBOARD["templating"]["list"]
    assert (variable["type"], variable["query"]) == ("datasource", "prometheus")
    ids = Counter(panel["id"] for panel in DASHBOARD["panels"])
    assert set(ids.values()) == {1}
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": f"${{{variable['name']}}}"}
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]


def test_panels_neither_overlap_nor_leave_the_grid():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        columns = range(place["x"], place["x"] + place["w"])
        cells = {(x, y) for x in columns for y in range(place["y"], place["y"] + place["h"])}
        assert not cells & taken, panel["title"]
        assert max(columns) < 24
        taken |= cells
