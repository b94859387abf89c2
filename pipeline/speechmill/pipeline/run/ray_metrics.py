"""The metrics of this process at the Prometheus endpoint that Ray has on every node.

Prometheus sees them as `ray_speechmill_<name>`, counters with `_total` behind it, and with Ray's
own labels for the node and the worker.
"""

from functools import cache

from ray.util.metrics import Counter, Gauge

from speechmill.pipeline import metrics
from speechmill.pipeline.metrics import Metric


def export() -> None:
    """Show what this process records; Ray must be connected."""
    metrics.send_to(_show)


def _show(metric: Metric, value: float, labels: dict[str, str]) -> None:
    series = _series(metric)
    if isinstance(series, Gauge):
        series.set(value, tags=labels)
    elif value > 0:  # Ray refuses to count nothing
        series.inc(value, tags=labels)


@cache
def _series(metric: Metric) -> Counter | Gauge:
    kind = Gauge if metric.is_gauge else Counter
    return kind(f"speechmill_{metric.name}", description=metric.help, tag_keys=metric.labels)
