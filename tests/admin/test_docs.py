"""docs/api.md: names every operation and status, and its examples run."""

import re
from http import HTTPStatus
from pathlib import Path

import trio

from otagate import errors
from otagate.admin import faults
from otagate.admin.metrics import Requests, make_operation
from otagate.admin.routes import OPERATIONS

from .conftest import serving
from .fake import TOKEN, FakeService

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()


def test_every_operation_is_named() -> None:
    named = set(re.findall(r"^\| `([A-Z]+) (/[^`?]*)`", PAGE, re.MULTILINE))
    own = {("GET", "/openapi.json"), ("GET", make_operation(Requests()).path)}
    assert named == {(o.method, o.path) for o in OPERATIONS} | own


def test_every_parameter_is_named() -> None:
    for operation in OPERATIONS:
        row = next(line for line in PAGE.splitlines() if f"`{operation.method} {operation.path}`" in line)
        for name in operation.query.__struct_fields__:
            assert name in ("cursor", "limit") or f"`{name}" in row, (operation.path, name)


def test_every_error_is_named() -> None:
    named = set(re.findall(r"^\| (\d{3}) \| `(\w+)`", PAGE, re.MULTILINE))
    raised = {
        (str(value.status), value.code)
        for module in (errors, faults)
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, errors.RequestError)
    }
    raised.add((str(int(HTTPStatus.INTERNAL_SERVER_ERROR)), faults.INTERNAL.error.code))
    assert named == raised


async def test_examples_run(tmp_path: Path) -> None:
    script = "\n".join(re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL))
    (tmp_path / "store").mkdir()
    async with serving(FakeService(tmp_path / "store")) as server:
        result = await trio.run_process(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env={"PATH": "/usr/bin:/bin", "OTAGATE_URL": server.url, "OTAGATE_TOKEN": TOKEN},
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert result.returncode == 0, (result.stdout, result.stderr)
    assert (tmp_path / "first-kilobyte.bin").stat().st_size == 1024
    assert (tmp_path / "results.ndjson").read_text().count("secret") == 2
    assert [name for _, name in server.service.devices] == ["d1", "d2", "d3", "d5", "d6"]
    assert server.service.batches["b1"].status == "aborted"
