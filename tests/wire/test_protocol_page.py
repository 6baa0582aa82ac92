"""docs/protocol.md is drawn from the messages, limits and codes."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def run_check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(root / "tools" / "generate_protocol"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_page_is_fresh() -> None:
    done = run_check(ROOT)
    assert done.returncode == 0, done.stderr


def test_a_stale_page_is_noticed(tmp_path: Path) -> None:
    for name in ("tools", "docs"):
        (tmp_path / name).mkdir()
    (tmp_path / "src").symlink_to(ROOT / "src")
    tool = (ROOT / "tools" / "generate_protocol").read_bytes()
    (tmp_path / "tools" / "generate_protocol").write_bytes(tool)
    page = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    stale = page.replace("an integer from 0 to 100", "an integer from 0 to 99")
    assert stale != page
    (tmp_path / "docs" / "protocol.md").write_text(stale, "utf-8")
    done = run_check(tmp_path)
    assert done.returncode == 1
    assert "stale" in done.stderr
