"""`otagate key check | rotate`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from otagate.store.interface import CreateProduct, NewDevice, RegisterDevices
from otagate.store.lmdb import open_store
from otagate.store.sealing import about_device

from .conftest import Outcome

Run = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with one device, in the current folder."""

    async def fill() -> None:
        store = open_store("data", map_bytes=2**26, reserve_bytes=4096)
        device = NewDevice("d1", "n", store.sealer.seal("s" * 32, about_device("lamp", "d1")))
        await store.commit([CreateProduct("lamp", "Lamp", "secret", 1), RegisterDevices("lamp", [device], 1)])
        await store.close()

    monkeypatch.chdir(tmp_path)
    trio.run(fill)
    return tmp_path


def test_check_and_rotate(folder: Path, otagate: Run) -> None:
    checked = otagate("key", "check", "--data", "data", "--json")
    assert (checked.code, json.loads(checked.out)["secrets"]) == (0, 1)
    outcome = otagate("key", "rotate", "new", "--data", "data")
    assert (outcome.code, outcome.err) == (0, "")
    assert f"put new at {Path('data', 'secret-key')}, or name it (data.key_file)" in outcome.out
    outcome = otagate("key", "check", "--data", "data")
    assert outcome.code == 1
    assert outcome.err.startswith("otagate: the key file data/secret-key holds the key ")
    assert outcome.err.count("\n") == 1
    (folder / "new").rename(folder / "data" / "secret-key")
    assert otagate("key", "check", "--data", "data").code == 0


def test_a_lost_key(folder: Path, otagate: Run) -> None:
    (folder / "data" / "secret-key").unlink()
    outcome = otagate("key", "rotate", "data/secret-key", "--data", "data")
    assert (outcome.code, outcome.err.count("\n")) == (1, 1)
    assert "is missing" in outcome.err
    outcome = otagate("key", "rotate", "data/secret-key", "--lost", "--data", "data")
    assert (outcome.code, outcome.err) == (0, "")
    assert "`otagate device rotate-secret` gives them another" in outcome.out
    made = otagate("key", "rotate", "other", "--data", "data", "--json")
    assert json.loads(made.out)["devices_dropped"] == 0


def test_no_store(tmp_path: Path, otagate: Run) -> None:
    for command in (("check",), ("rotate", str(tmp_path / "new"))):
        outcome = otagate("key", *command, "--data", str(tmp_path / "none"))
        assert (outcome.code, outcome.err.count("\n")) == (1, 1), outcome.err
    assert not (tmp_path / "new").exists()
