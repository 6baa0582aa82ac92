"""The bench as `pip install` lays it out: another name, another folder, and nothing of the tree beside it."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
BENCH = ROOT / "bench"


def test_all_of_it_is_shipped() -> None:
    packages = {
        ".".join(("otagate_bench", *file.parent.relative_to(BENCH).parts))
        for file in BENCH.rglob("__init__.py")
    }
    shipped = re.findall(r'"(otagate_bench[.\w]*)"', (ROOT / "setup.py").read_text())
    assert packages == set(shipped)
    no_code = {
        str(file.parent.relative_to(BENCH))
        for file in BENCH.rglob("*")
        if file.is_file() and file.suffix not in {".py", ".pyc"}
    }
    assert no_code == {"peers"}
    assert '"otagate_bench.peers" = ["*"]' in (ROOT / "pyproject.toml").read_text()


def test_it_runs_under_its_installed_name_anywhere(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "otagate_bench").symlink_to(BENCH)
    path = f"{tmp_path / 'site'}:{ROOT / 'src'}"
    arguments = ["login", "--devices", "20", "--json", "out.json", "--server-core", "none"]
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-c",
            f"from otagate_bench.cli import main; raise SystemExit(main({arguments}))",
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert '"logins"' in (tmp_path / "out.json").read_text()
    assert not list((tmp_path / "build" / "bench").iterdir())
