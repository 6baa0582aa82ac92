"""docs/threats.md names tests that there are, and is found from where people look."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/threats.md").read_text()


def test_every_test_that_is_named_exists() -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there_are = set(re.findall(r"^(?:async )?def (test_\w+)", sources, re.MULTILINE))
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 40
    assert named - there_are == set()


def test_every_threat_has_a_test() -> None:
    for row in re.findall(r"^\| \*\*.*$", PAGE, re.MULTILINE):
        assert "`test_" in row or "reliability.md" in row, row


def test_pages_lead_here() -> None:
    for page in ("README.md", "docs/security.md", "docs/signing.md"):
        assert "threats.md" in (ROOT / page).read_text(), page
