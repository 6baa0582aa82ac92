"""What a source distribution carries: all that was written, nothing that was made from it."""

from pathlib import Path

import pytest
from setuptools.command.egg_info import FileList

ROOT = Path(__file__).parent.parent


def test_c_that_was_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most C here was made by Cython; the floor among the peers and the fuzzer's harness were not."""
    monkeypatch.chdir(ROOT)
    files = FileList()
    for line in Path("MANIFEST.in").read_text().splitlines():
        files.process_template_line(line)
    carried = sorted(path for path in files.files if path.endswith((".c", ".so", ".pyc")))
    assert carried == ["bench/peers/floor.c", "tests/fuzz/harness.c"]
