"""docs/upgrades.md is drawn from the table."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from otagate.upgrade.eligibility import Reason
from otagate.upgrade.model import Cause, Remark, State

ROOT = Path(__file__).parent.parent.parent


def run_check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "generate_states"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_page_is_fresh() -> None:
    done = run_check(ROOT)
    assert done.returncode == 0, done.stderr


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    for name in ("tools", "docs"):
        (tmp_path / name).mkdir()
    (tmp_path / "src").symlink_to(ROOT / "src")
    (tmp_path / "tools" / "generate_states").write_bytes((ROOT / "tools" / "generate_states").read_bytes())
    page = (ROOT / "docs" / "upgrades.md").read_text("utf-8")
    stale = page.replace("pushed --> to_be_upgraded: acknowledged", "pushed --> upgrading: acknowledged")
    assert stale != page
    (tmp_path / "docs" / "upgrades.md").write_text(stale, "utf-8")
    done = run_check(tmp_path)
    assert done.returncode == 1
    assert "stale" in done.stderr


@pytest.mark.parametrize(
    ("heading", "words"),
    [
        ("code", [reason.value for reason in Reason]),
        *(
            (kind.__name__.lower(), [member.label for member in kind if member])
            for kind in (State, Remark, Cause)
        ),
    ],
)
def test_every_word_stands_in_its_table(heading: str, words: list[str]) -> None:
    page = (ROOT / "docs" / "upgrades.md").read_text("utf-8")
    _, _, table = page.partition(f"\n| {heading} | ")
    rows = table.partition("\n\n")[0].splitlines()[2:]
    told = [word for row in rows for word in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(told) == sorted(words)
