"""The vectors that gateway, command line and console share, and what vectors cannot say."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otagate import limits
from otagate.errors import Invalid
from otagate.upgrade import validation
from otagate.upgrade.model import Policy, Range

VECTORS: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parent.parent / "vectors" / "validation.json").read_text("utf-8")
)
CASES = [(name, vector) for name, vectors in VECTORS.items() for vector in vectors]


@pytest.mark.parametrize(
    ("name", "vector"), CASES, ids=[f"{name}-{number}" for number, (name, _) in enumerate(CASES)]
)
def test_vector(name: str, vector: dict[str, Any]) -> None:
    check = validation.CHECKS[name]
    if vector["ok"]:
        assert check(vector["value"]) == vector["normalized"]
    else:
        with pytest.raises(Invalid) as caught:
            check(vector["value"])
        assert caught.value.message == vector["error"]
        assert caught.value.field


def test_every_check_has_good_and_bad_vectors() -> None:
    assert VECTORS.keys() == validation.CHECKS.keys()
    for vectors in VECTORS.values():
        assert {vector["ok"] for vector in vectors} == {True, False}


@pytest.mark.parametrize("name", validation.CHECKS)
@given(
    value=st.one_of(
        st.text(), st.integers(), st.floats(), st.none(), st.binary(), st.dictionaries(st.text(), st.text())
    )
)
def test_checks_are_total_and_stable(name: str, value: object) -> None:
    check = validation.CHECKS[name]
    try:
        checked = check(value)
    except Invalid:
        return
    assert check(checked) == checked


@pytest.mark.parametrize(
    ("ordinal", "chinese"),
    [
        (0x3006, False),
        (0x3007, True),
        (0x3008, False),
        (0x33FF, False),
        (0x3400, True),
        (0x4DBF, True),
        (0x4DC0, False),
        (0x4DFF, False),
        (0x4E00, True),
        (0x9FFF, True),
        (0xA000, False),
        (0x1FFFF, False),
        (0x20000, True),
        (0x323AF, True),
        (0x323B0, False),
    ],
)
def test_edges_of_chinese(ordinal: int, chinese: bool) -> None:
    for check, value in (
        (validation.check_firmware_name, chr(ordinal)),
        (validation.check_file_name, f"{chr(ordinal)}.bin"),
    ):
        if chinese:
            assert check(value) == value
        else:
            with pytest.raises(Invalid):
                check(value)


BATCH: dict[str, Any] = {
    "range": "all",
    "validity_days": 7,
    "policy": "standard",
    "timeout_minutes": 30,
    "retries": 2,
    "retry_interval_minutes": 5,
}


def test_batch() -> None:
    checked = validation.check_batch(**BATCH)
    assert (checked.range, checked.policy, checked.devices) == (Range.ALL, Policy.STANDARD, ())
    rules = checked.rules("2.0", 1_000)
    assert rules.target_version == "2.0"
    assert rules.retries == 2
    assert rules.retry_interval_ms == 5 * 60_000
    assert rules.timeout_ms == 30 * 60_000
    assert rules.expires_at_ms == 1_000 + 7 * 24 * 3600 * 1000


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"range": "directed", "devices": ["b", "a", "b"]}, {"devices": ("b", "a")}),
        ({"devices": None}, {"devices": ()}),
        ({"devices": []}, {"devices": ()}),
        ({"retries": 0, "retry_interval_minutes": None}, {"retries": 0, "retry_interval_minutes": 0}),
        ({"retries": 0}, {"retry_interval_minutes": 5}),
        ({"policy": "silent"}, {"policy": Policy.SILENT}),
    ],
)
def test_good_batches(changes: dict[str, Any], expected: dict[str, Any]) -> None:
    checked = validation.check_batch(**(BATCH | changes))
    assert {name: getattr(checked, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"range": "some"}, "range"),
        ({"devices": ["a"]}, "devices"),
        ({"range": "directed"}, "devices"),
        ({"range": "directed", "devices": []}, "devices"),
        ({"range": "directed", "devices": "abc"}, "devices"),
        ({"range": "directed", "devices": {"a": 1}}, "devices"),
        ({"range": "directed", "devices": ["a"] * (limits.directed_devices_max + 1)}, "devices"),
        ({"range": "directed", "devices": ["a", "b c"]}, "devices[1]"),
        ({"range": "directed", "devices": ["a", None]}, "devices[1]"),
        ({"range": "directed", "devices": ["a", "b\nc"]}, "devices[1]"),
        ({"range": "directed", "devices": ["a\n", "b"]}, "devices[0]"),
        ({"range": "directed", "devices": ["a", ""]}, "devices[1]"),
        ({"range": "directed", "devices": ["a", "-b"]}, "devices[1]"),
        ({"range": "directed", "devices": ["a" * 128, "b" * 129]}, "devices[1]"),
        ({"range": "directed", "devices": ["a", "é"]}, "devices[1]"),
        ({"validity_days": 0}, "validity_days"),
        ({"policy": "loud"}, "policy"),
        ({"timeout_minutes": 0}, "timeout_minutes"),
        ({"retries": 6}, "retries"),
        ({"retry_interval_minutes": None}, "retry_interval_minutes"),
        ({"retries": 0, "retry_interval_minutes": 0}, "retry_interval_minutes"),
    ],
)
def test_bad_batches(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(Invalid) as caught:
        validation.check_batch(**(BATCH | changes))
    assert caught.value.field == field


def test_the_caller_names_the_field() -> None:
    with pytest.raises(Invalid) as caught:
        validation.check_identifier("", "line 3")
    assert caught.value.field == "line 3"
