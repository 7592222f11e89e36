"""Metrics as text: OpenMetrics 1.0, or the text format 0.0.4 of Prometheus for who asks for that. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from smtpmail.metrics.counts import Counts
from smtpmail.metrics.families import FAMILIES, Family

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def expose(counts: Counts, gauges: Mapping[str, float], *, openmetrics: bool, version: str) -> str:
    """All metrics. `gauges` has the values of the families of that kind; a missing one is left out."""
    lines = list(_info(version, openmetrics=openmetrics))
    for family in FAMILIES:
        if family.kind == "gauge" and family.name not in gauges:
            continue
        lines += _head(family, openmetrics=openmetrics)
        if family.kind == "gauge":
            lines.append(f"{family.name} {_number(gauges[family.name])}")
        elif family.buckets:
            lines += _histogram(family, counts)
        else:
            lines += [
                f"{family.name}_total{_labels(family, values)} {_number(counts.value(family.name, values))}"
                for values in family.label_sets()
            ]
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _info(version: str, *, openmetrics: bool) -> Iterator[str]:
    name = "smtpmail_build" if openmetrics else "smtpmail_build_info"
    yield f"# TYPE {name} {'info' if openmetrics else 'gauge'}"
    yield f"# HELP {name} The version that runs."
    yield f'smtpmail_build_info{{version="{version}"}} 1'


def _head(family: Family, *, openmetrics: bool) -> Iterator[str]:
    name = family.name if openmetrics or family.kind != "counter" else f"{family.name}_total"
    yield f"# TYPE {name} {family.kind}"
    if openmetrics and family.unit:
        yield f"# UNIT {name} {family.unit}"
    yield f"# HELP {name} {family.help}"


def _histogram(family: Family, counts: Counts) -> Iterator[str]:
    cumulative, total = counts.histogram(family)
    bounds = [*(_number(bound) for bound in family.buckets), "+Inf"]
    for bound, count in zip(bounds, cumulative, strict=True):
        yield f'{family.name}_bucket{{le="{bound}"}} {_number(count)}'
    yield f"{family.name}_count {_number(cumulative[-1])}"
    yield f"{family.name}_sum {_number(total)}"


def _labels(family: Family, values: tuple[str, ...]) -> str:
    pairs = ",".join(f'{name}="{value}"' for (name, _), value in zip(family.labels, values, strict=True))
    return f"{{{pairs}}}" if pairs else ""


def _number(value: float) -> str:
    return repr(float(value))
