"""The exposition against a parser that is not ours, and the numbers behind it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as some
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from otagate.openmetrics import Family, Histogram, Sample, render

HOURS = Family("x_hours", "gauge", 'With "quotes", \\ and\nlines.', ("a", "b"))


def parsed(samples: list[Sample]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Value by name and labels, as the parser reads them."""
    text = render(samples).decode()
    assert text.endswith("# EOF\n")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_each_kind() -> None:
    histogram = Histogram([0.5, 1, 2])
    for value in (0.1, 0.5, 0.6, 2, 3):
        histogram.observe(value)
    found = parsed(
        [
            Sample(Family("g", "gauge", "G."), -1.5),
            Sample(Family("c_seconds", "counter", "C.", unit="seconds"), 7),
            Sample(Family("i", "info", "I.", ("version",)), 1, ("0.1",)),
            Sample(Family("h_seconds", "histogram", "H.", ("x",), "seconds"), histogram, ("y",)),
        ]
    )
    x = ("x", "y")
    assert found == {
        ("g", frozenset()): -1.5,
        ("c_seconds_total", frozenset()): 7,
        ("i_info", frozenset({("version", "0.1")})): 1,
        ("h_seconds_bucket", frozenset({x, ("le", "0.5")})): 2,
        ("h_seconds_bucket", frozenset({x, ("le", "1.0")})): 3,
        ("h_seconds_bucket", frozenset({x, ("le", "2.0")})): 4,
        ("h_seconds_bucket", frozenset({x, ("le", "+Inf")})): 5,
        ("h_seconds_count", frozenset({x})): 5,
        ("h_seconds_sum", frozenset({x})): pytest.approx(6.2),
    }


def test_samples_of_a_family_stand_together() -> None:
    other = Family("other", "gauge", "O.")
    text = render([Sample(HOURS, 1, ("1", "")), Sample(other, 2), Sample(HOURS, 3, ("2", ""))]).decode()
    assert text.count("# TYPE x_hours gauge") == 1
    assert text.index('x_hours{a="2"') < text.index("# TYPE other")


def test_nothing_is_an_exposition() -> None:
    assert render([]) == b"# EOF\n"


@given(some.text(), some.text(), some.floats(allow_nan=False, allow_infinity=False))
def test_any_text_and_number_comes_back(a: str, b: str, value: float) -> None:
    if {"\r", "\x0b"} & set(a + b) or "\x85" in a + b:  # the parser splits lines where the standard does not
        return
    lines = str.splitlines(a + b)
    if len(lines) > (a + b).count("\n") + 1:
        return
    found = parsed([Sample(HOURS, value, (a, b))])
    assert found == {("x_hours", frozenset({("a", a), ("b", b)})): value}


@given(some.lists(some.floats(0, 10)), some.lists(some.integers(1, 9), min_size=1, unique=True).map(sorted))
def test_a_histogram_counts_each_value_once(values: list[float], bounds: list[int]) -> None:
    histogram = Histogram(bounds)
    for value in values:
        histogram.observe(value)
    expected = [sum(value <= bound for value in values) for bound in (*bounds, math.inf)]
    assert histogram.cumulated() == expected
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))
