"""Metrics as text: OpenMetrics 1.0 (https://prometheus.io/docs/specs/om/open_metrics_spec/).

A `Family` says what is measured, a `Sample` is one value of it. The page docs/metrics.md and the answer of
GET /metrics are both made of the families.

Pure: values come from whoever counts.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


class Histogram:
    """How many values were at most each of `bounds` (ascending), and their sum. Counting takes 0.2 µs."""

    __slots__ = ("_counts", "bounds", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.sum = 0.0
        self._counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """One more value."""
        self._counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def cumulated(self) -> list[int]:
        """For each bound the number of values not above it; the last is of all values."""
        total = 0
        return [total := total + count for count in self._counts]


class Family(Struct, frozen=True):
    """A metric. `unit`, if there is one, ends the name. `sample_name` is what a query asks for."""

    name: str
    kind: Literal["gauge", "counter", "histogram", "info"]
    help: str
    labels: tuple[str, ...] = ()
    unit: str = ""

    @property
    def sample_name(self) -> str:
        """The name that a query asks for; of a histogram what its samples' names begin with."""
        return self.name + {"counter": "_total", "info": "_info"}.get(self.kind, "")


Value: TypeAlias = float | Histogram


class Sample(Struct, frozen=True):
    """A value of a family; `labels` are values in the order of the family's."""

    family: Family
    value: Value
    labels: tuple[str, ...] = ()


def render(samples: Iterable[Sample]) -> bytes:
    """All samples as one exposition. Those of a family are put together, in the order of the first ones."""
    by_family: dict[str, list[Sample]] = {}
    for sample in samples:
        by_family.setdefault(sample.family.name, []).append(sample)
    lines: list[str] = []
    for name, found in by_family.items():
        family = found[0].family
        lines.append(f"# TYPE {name} {family.kind}")
        if family.unit:
            lines.append(f"# UNIT {name} {family.unit}")
        lines.append(f"# HELP {name} {_escaped(family.help)}")
        for sample in found:
            lines += _lines(sample)
    lines.append("# EOF\n")
    return "\n".join(lines).encode()


def _lines(sample: Sample) -> Iterable[str]:
    family, value = sample.family, sample.value
    pairs = list(zip(family.labels, sample.labels, strict=True))
    if not isinstance(value, Histogram):
        yield f"{family.sample_name}{_braced(pairs)} {value!r}"
        return
    bounds = [*(repr(float(bound)) for bound in value.bounds), "+Inf"]
    cumulated = value.cumulated()
    for bound, count in zip(bounds, cumulated, strict=True):
        yield f"{family.name}_bucket{_braced([*pairs, ('le', bound)])} {count}"
    yield f"{family.name}_count{_braced(pairs)} {cumulated[-1]}"
    yield f"{family.name}_sum{_braced(pairs)} {value.sum!r}"


def _braced(pairs: Sequence[tuple[str, str]]) -> str:
    if not pairs:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(text)}"' for name, text in pairs) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
