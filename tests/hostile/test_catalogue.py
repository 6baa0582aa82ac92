"""The attacks of tools/hostile and the table of docs/reliability.md tell of each other."""

import re
from pathlib import Path

import pytest

from otagate import limits
from tests.hostile.catalogue import ATTACKS, Attack

ROOT = Path(__file__).parent.parent
TABLE = re.findall(r"^\| (.*) \|$", (ROOT.parent / "docs/reliability.md").read_text(), re.MULTILINE)
ROWS = [cells for cells in (row.split(" | ") for row in TABLE) if len(cells) == 5]


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_each_attack_stands_in_the_table(attack: Attack) -> None:
    """With its bound and its counter, as docs/reliability.md writes them."""
    name, _, label = attack.counter.removeprefix("otagate_").partition("_total")
    value = label and "{" + label.split('"')[1] + "}"
    if attack.bounds:
        assert hasattr(limits, attack.bounds)
        assert any(
            attack.bounds in bound and f"`{name}{value}`" in counter for _, bound, _, counter, _ in ROWS
        )


def test_each_test_of_the_table_is_there() -> None:
    named = {test for cells in ROWS for test in re.findall(r"`(test_\w+)`", cells[4])}
    there = {
        name for path in ROOT.rglob("test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    assert len(named) > 15
    assert named <= there
