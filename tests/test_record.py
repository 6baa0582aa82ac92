"""Long runs that are ended and go on."""

from pathlib import Path

import pytest

from tests.crash.__main__ import Many
from tests.record import Record, code
from tests.simulation.__main__ import main as simulate


def test_what_was_kept_is_there_again(tmp_path: Path) -> None:
    first = Record(tmp_path / "record", {"code": "a"})
    assert first.lines == []
    first.keep({"seed": 1})
    first.keep({"seed": 2})
    assert Record(tmp_path / "record", {"code": "a"}).lines == [{"seed": 1}, {"seed": 2}]


def test_a_line_that_was_cut_off_is_none(tmp_path: Path) -> None:
    path = tmp_path / "record"
    Record(path, {"code": "a"}).keep({"seed": 1})
    with path.open("a") as file:
        file.write('{"seed": ')
    again = Record(path, {"code": "a"})
    assert again.lines == [{"seed": 1}]
    again.keep({"seed": 2})
    assert Record(path, {"code": "a"}).lines == [{"seed": 1}, {"seed": 2}]


def test_a_run_of_other_code_is_refused(tmp_path: Path) -> None:
    Record(tmp_path / "record", {"code": "a"})
    with pytest.raises(SystemExit, match="begin another file"):
        Record(tmp_path / "record", {"code": "b"})
    assert code("tests/crash") != code("tests/simulation")


def test_no_seed_is_run_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resume = ["--resume", str(tmp_path / "record")]
    assert simulate(["--seeds", "2", *resume]) == 0
    assert simulate(["--seeds", "4", *resume]) == 0
    assert simulate(["--seeds", "4"]) == 0
    two, four, fresh = (sums for sums in capsys.readouterr().out.split(" with a broken invariant: []\n")[:3])
    assert "4 seeds (2 of them before)" in four
    assert two.splitlines()[-1] != four.splitlines()[-1] == fresh.splitlines()[-1]  # the traces' digest


def test_cycles_that_were_done_count(tmp_path: Path) -> None:
    record = Record(tmp_path / "record", {})
    record.keep({"cycles": 1, "promises": 10})
    record.keep({"cycles": 1, "promises": 5})
    many = Many(5, Record(tmp_path / "record", {}))
    assert list(many.cycles) == [3, 4, 5]
    assert many.totals["promises"] == 15


def test_no_cycle_is_begun_after_the_end() -> None:
    many = Many(5, Record(None, {}))
    assert next(many.cycles) == 1
    many.cycles.end()
    assert list(many.cycles) == []
