"""The console's modules under node (modules.mjs), and their bounds against the gateway's."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from otagate import limits

ROOT = Path(__file__).parents[2]
STATIC = ROOT / "src" / "otagate" / "admin" / "static"


@pytest.mark.skipif(shutil.which("node") is None, reason="needs node")
def test_modules(tmp_path: Path) -> None:
    copy = tmp_path / "static"
    shutil.copytree(STATIC, copy)
    (copy / "package.json").write_text('{"type": "module"}')  # older nodes ask for it
    result = subprocess.run(
        ["node", "--test", str(Path(__file__).parent / "modules.mjs")],
        env=os.environ
        | {"STATIC": str(copy), "VECTORS": str(ROOT / "tests" / "vectors" / "validation.json")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    ran = re.search(r"^# pass (\d+)$", result.stdout, re.MULTILINE)
    assert ran is not None, result.stdout
    assert int(ran[1]) > 30, result.stdout


def test_limits_are_the_gateways() -> None:
    text = (STATIC / "core" / "limits.js").read_text()
    named = re.findall(r"^  (\w+): ([\d_]+),$", text, re.MULTILINE)
    assert len(named) == text.count(":")
    for name, value in named:
        assert getattr(limits, name) == int(value), name
