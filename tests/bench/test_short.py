"""`otagate-bench short`, whole: the gateway beside a peer and beside itself, in ratios with wide margins."""

from pathlib import Path

import pytest

from bench import cli


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_ratio_is_under_its_floor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["short", "--data", str(tmp_path)])
    said = capsys.readouterr().err
    assert code == 0, said
    assert said.count("floor") == 7
    assert not list(tmp_path.iterdir())
