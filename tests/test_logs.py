"""Logs: the two formats, what a peer cannot do to them, the limiter."""

import contextlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otagate import limits, logs
from otagate.errors import StoreError

STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves logging as it was."""
    root, ours = logging.getLogger(), logging.getLogger("otagate")
    before = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])
    logging.captureWarnings(False)


def lines(format: Any, write: Callable[[logs.Log], object], level: logs.Level = "info") -> list[str]:
    """What comes out when `write` uses a log."""
    stream = io.StringIO()
    logs.configure(level, format, stream)
    write(logs.get("gateway"))
    text = stream.getvalue()
    assert text == "" or text.endswith("\n")
    return text.split("\n")[:-1]


def line(format: Any, write: Callable[[logs.Log], object]) -> str:
    """The one line that comes out."""
    (only,) = lines(format, write)
    return only


def test_text_line() -> None:
    said = line(
        "text", lambda log: log.info("device_logged_in", device="lamp/d0", link="tcp", ms=3, again=False)
    )
    assert re.fullmatch(STAMP + r" info device_logged_in device=lamp/d0 link=tcp ms=3 again=false", said)


def test_json_line() -> None:
    said = json.loads(
        line("json", lambda log: log.error("commit_failed", path=Path("/a b"), rows=7, why=None))
    )
    assert re.fullmatch(STAMP, said.pop("time"))
    assert said == {"level": "error", "event": "commit_failed", "path": "/a b", "rows": 7, "why": None}


def test_time_is_utc_and_cut_to_milliseconds() -> None:
    record = logging.makeLogRecord({"created": 1767225600.9996, "levelname": "INFO", "name": "x", "msg": "m"})
    assert logs._TextFormatter().format(record).startswith("2026-01-01T00:00:00.999Z info x ")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("", '""'),
        ("two words", '"two words"'),
        ("a=b", '"a=b"'),
        ('say "no"', r'"say \"no\""'),
        ("back\\slash", r'"back\\slash"'),
        ("灯泡", '"灯泡"'),
        ("a\nb\r\t", r'"a\nb\r\t"'),
        ("\x1b[2J\x00\x7f", r'"\u001b[2J\u0000\u007f"'),
        ("\x85\u2028\u202e\u200b\ud800", r'"\u0085\u2028\u202e\u200b\ud800"'),
        ("\U000e0001", r'"\udb40\udc01"'),
        (b"\xff\n", r'"\\xff\n"'),
        (1.5, "1.5"),
        (float("nan"), "nan"),  # JSON has no such number
        (None, "null"),
        (["a", 1], "\"['a', 1]\""),
        (ValueError("bad\nthing"), r'"ValueError: bad\nthing"'),
    ],
)
def test_values_as_text(value: Any, shown: str) -> None:
    assert line("text", lambda log: log.info("e", v=value)).split(" ", 3)[3] == f"v={shown}"


@pytest.mark.parametrize("format", ["text", "json"])
@given(event=st.text(max_size=20), key=st.text(max_size=20), value=st.text())
def test_nothing_forges_a_line(format: str, event: str, key: str, value: str) -> None:
    fields = {"k" + key: value}
    said = line(format, lambda log: log.info(event, **fields))
    assert said.isprintable()
    assert said.splitlines() == [said]
    if format == "json":
        shown = json.loads(said)["k" + key]
        assert shown == value or (len(value) > limits.log_field_chars_max and shown.endswith("…"))


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("value", ["x" * 10_000, b"x" * 10_000, ValueError("x" * 10_000)])
def test_long_fields_are_cut(format: str, value: Any) -> None:
    said = line(format, lambda log: log.info("e", v=value))
    assert len(said) < limits.log_field_chars_max + 100
    assert said.count("x") > limits.log_field_chars_max - 30


def test_level() -> None:
    def write(log: logs.Log) -> None:
        log.debug("one")
        log.info("two")
        log.warning("three")
        log.limited("four", level="info")

    assert [said.split(" ")[1:] for said in lines("text", write, "warning")] == [["warning", "three"]]
    assert len(lines("text", write, "debug")) == 4


def test_a_field_may_not_pose_as_part_of_the_line() -> None:
    with pytest.raises(AssertionError):
        lines("json", lambda log: log.info("e", level="error"))


def raised(error: Exception) -> Exception:
    """The error, with a traceback."""
    try:
        raise error  # noqa: TRY301
    except Exception as caught:
        return caught


def test_an_expected_error_is_one_sentence_without_traceback() -> None:
    error = raised(StoreError("no room for the map"))
    said = line("text", lambda log: log.failure("store_stopped", error, path="/x"))
    assert said.endswith(' error store_stopped path=/x error="StoreError: no room for the map"')


def test_an_unexpected_error_brings_its_traceback_in_its_line() -> None:
    error = raised(KeyError("k"))
    said = json.loads(line("json", lambda log: log.failure("bug", error)))
    assert said["error"] == "KeyError: 'k'"
    assert said["traceback"].startswith("Traceback (most recent call last):\n")
    assert r"\n" in line("text", lambda log: log.failure("bug", error))


def test_logs_of_libraries_take_the_same_form_from_warning_on() -> None:
    def write(log: logs.Log) -> None:
        logging.getLogger("hypercorn.error").info("quiet")
        logging.getLogger("hypercorn.error").warning("two %s", "lines\nhere")
        logging.getLogger("hypercorn.error").error("x", exc_info=raised(StoreError("gone")))

    first, second = lines("text", write, "debug")
    assert first.endswith(r' warning hypercorn.error message="two lines\nhere"')
    assert second.endswith(' error hypercorn.error message=x error="StoreError: gone"')


def test_a_closed_stream_stops_nobody() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    stream.close()
    logs.get("gateway").info("unheard")


def test_a_full_disk_of_the_log_costs_lines_and_no_word_about_it(capfd: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "w", buffering=1) as stream:
        logs.configure("info", "text", stream)
        logs.get("gateway").info("unheard")
        with contextlib.suppress(OSError):
            stream.close()
    assert capfd.readouterr() == ("", "")


def test_limiter_admits_so_many_a_second_and_counts_the_rest() -> None:
    limiter = logs.Limiter(lines_max=2)
    assert [limiter.admit("a", 0.0), limiter.admit("a", 0.5), limiter.admit("a", 0.9)] == [0, 0, None]
    assert limiter.admit("b", 0.9) == 0  # each event on its own
    assert limiter.admit("a", 0.99) is None
    assert [limiter.admit("a", 1.0), limiter.admit("a", 1.1), limiter.admit("a", 1.2)] == [2, 0, None]
    assert limiter.collect(1.9) == []  # b's second is over but it held nothing back; a's is not over
    assert limiter.collect(2.0) == [("a", 1)]
    assert limiter.collect(9.0) == []


def test_limited_tells_what_it_held_back() -> None:
    stream = io.StringIO()
    logs.configure("info", "text", stream)
    now = 0.0
    log = logs.Log(logging.getLogger("otagate.gateway"), clock=lambda: now)
    for _ in range(limits.log_lines_per_second_max + 5):
        log.limited("bad_message", peer="p")
    now = 1.0
    log.limited("bad_message", peer="q")
    for _ in range(limits.log_lines_per_second_max):
        log.limited("bad_message", peer="r")
    now = 2.0
    log.report_suppressed()
    said = [text.split(" ", 2)[2] for text in stream.getvalue().splitlines()]
    assert said == [
        *["bad_message peer=p"] * limits.log_lines_per_second_max,
        "bad_message peer=q suppressed=5",
        *["bad_message peer=r"] * (limits.log_lines_per_second_max - 1),
        "bad_message suppressed=1",
    ]
