"""Where output goes and names come from: closed, full, in another encoding, leading elsewhere."""

import argparse
import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from otagate.cli import build_parser, output

from .conftest import Answer, Gateway, Outcome

Run = Callable[..., Outcome]

OTAGATE = [sys.executable, "-P", "-m", "otagate"]
COMMANDS = [["product", "list"], ["product", "list", "--json"], ["config", "show"]]


def in_shell(command: list[str], redirection: str, **more: str) -> subprocess.CompletedProcess[str]:
    """The command as a process, below a shell's redirection."""
    shell = ["bash", "-c", f'"$@" {redirection}; exit "${{PIPESTATUS[0]}}"', "-", *OTAGATE, *command]
    return subprocess.run(shell, capture_output=True, text=True, check=False, env=os.environ | more)


@pytest.fixture
def lamp(gateway: Gateway) -> Gateway:
    """One product, whose name is Chinese."""
    gateway.answers["GET /api/v1/products"] = {"items": [{"key": "lamp", "name": "灯"}], "next": None}
    return gateway


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "| true"])
def test_nobody_reads(lamp: Gateway, command: list[str], redirection: str) -> None:
    outcome = in_shell(command, redirection)
    assert (outcome.returncode, outcome.stdout) == (0, "")
    assert outcome.stderr in ("", "1 in all\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_no_room_for_the_output(lamp: Gateway, command: list[str]) -> None:
    outcome = in_shell(command, ">/dev/full")
    assert outcome.returncode == 1
    assert outcome.stderr.removeprefix("1 in all\n") == "otagate: [Errno 28] No space left on device\n"


def test_an_output_that_cannot_say_it(lamp: Gateway) -> None:
    outcome = in_shell(["product", "list"], "", PYTHONIOENCODING="ascii")
    assert (outcome.returncode, outcome.stderr) == (0, "1 in all\n")
    assert "\\u706f" in outcome.stdout


@pytest.mark.parametrize(
    "command", [["product", "show"], ["product", "add", "lamp"], ["device", "list", "lamp", "--search"]]
)
def test_an_argument_that_is_no_text(gateway: Gateway, otagate: Run, command: list[str]) -> None:
    outcome = otagate(*command, os.fsdecode(b"\xff"))
    assert outcome == (2, "", "otagate: '\\udcff' is not UTF-8\n")
    assert gateway.requests == []


@pytest.mark.parametrize("name", ["", ".", ".."])
@pytest.mark.parametrize("command", ["product delete", "device delete lamp", "product revoke-key lamp"])
def test_a_name_that_would_lead_elsewhere(gateway: Gateway, otagate: Run, command: str, name: str) -> None:
    """`device delete lamp ..` once deleted the product."""
    gateway.answers["DELETE /api/v1/products/lamp"] = Answer(204)
    assert otagate(*command.split(), name) == (2, "", f"otagate: there is nothing named {name!r}\n")
    assert gateway.requests == []


def test_a_list_that_is_no_text(gateway: Gateway, otagate: Run, tmp_path: Path) -> None:
    file = tmp_path / "devices.txt"
    file.write_bytes(b"d1\n\xff\n")
    outcome = otagate("batch", "create", "f1", "--devices", str(file))
    assert outcome == (2, "", f"otagate: {file} is not UTF-8\n")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("灯𠀀\U000323af", "灯𠀀\U000323af"),  # the last is newer than this Python
        ("a\x1b[31mb", "a�[31mb"),
        ("a\u202eb\u200bc", "a�b�c"),
        ("a\nb", "a b"),
        ("a\tb\r\n", "a b  "),
        ("", "–"),
    ],
)
def test_text(value: str, shown: str) -> None:
    assert output.text(value) == shown


# -- firmware content --------------------------------------------------------------------------------


@pytest.fixture
def firmware(gateway: Gateway) -> bytes:
    """The image of f1."""
    image = b"firmware"
    md5 = hashlib.md5(image).hexdigest()
    gateway.answers["GET /api/v1/firmware/f1"] = {"id": "f1", "size": len(image), "md5": md5}
    gateway.answers["GET /api/v1/firmware/f1/content"] = Answer(200, image)
    return image


def test_content_for_a_device_leaves_it_one(otagate: Run, firmware: bytes, tmp_path: Path) -> None:
    """`-o /dev/null`, as root, once made a file of it."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    assert otagate("firmware", "content", "f1", "-o", str(pipe)).code == 0
    assert pipe.is_fifo()
    reader.join()
    assert read == [firmware]


def test_a_record_shows_texts_of_many_lines(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """Below each other, where no second line passes for another field."""
    output.write_record({"id": "f1", "description": "one\nid  f2\n"}, as_json=False)
    lines = capfdbinary.readouterr().out.decode().splitlines()
    assert lines == ["id           f1", "description  one", "             id  f2"]


def test_every_command_says_what_it_is_about() -> None:
    def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
        yield parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for command in action.choices.values():
                    yield from commands(command)

    silent = [command.prog for command in commands(build_parser()) if not command.description]
    assert silent == []


def test_content_goes_where_a_link_leads(otagate: Run, firmware: bytes, tmp_path: Path) -> None:
    link, file = tmp_path / "link", tmp_path / "file"
    link.symlink_to(file)
    assert otagate("firmware", "content", "f1", "-o", str(link)).code == 0
    assert link.is_symlink()
    assert file.read_bytes() == firmware
