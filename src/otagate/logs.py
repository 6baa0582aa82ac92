"""Logs: one line per fact on stderr, as text or JSON, through the standard library's logging.

    log = logs.get("gateway")
    log.info("device_logged_in", device="lamp/d0", link="websocket")
    → 2026-01-01T00:00:00.000Z info device_logged_in device=lamp/d0 link=websocket

Invariant: a fact is one line, whatever a peer put into its fields. Everything that is not printable is
escaped and long fields are cut, so nobody outside can forge a line, hide one, or fill the disk with one;
facts that peers can cause at will go through `limited`. An error that otagate raised on purpose is told
in one sentence; only what nobody expected brings a traceback, inside its line.
"""

import contextlib
import json
import logging
import math
import re
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Literal, TextIO

from otagate import limits
from otagate.errors import OtagateError

Level = Literal["debug", "info", "warning", "error"]
Plain = bool | int | float | str | None

_LEVELS: dict[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_RESERVED = frozenset({"time", "level", "event", "suppressed"})
_BARE = re.compile(r"[A-Za-z0-9_.,:;/@+*%()\[\]<>~^|-]+")


class Limiter:
    """At most `lines_max` lines of one event within one second; counts what it holds back.

    Pure: time is an argument. Its memory is one entry per event, and events are literals in the code.
    """

    __slots__ = ("_lines_max", "_windows")

    def __init__(self, lines_max: int = limits.log_lines_per_second_max) -> None:
        self._lines_max = lines_max
        self._windows: dict[str, list[float]] = {}  # event: [start of its second, lines, held back]

    def admit(self, event: str, now_s: float) -> int | None:
        """None: hold this line back. A number: write it; so many of this event were held back before it."""
        window = self._windows.get(event)
        if window is None or now_s - window[0] >= 1:
            self._windows[event] = [now_s, 1, 0]
            return int(window[2]) if window else 0
        if window[1] < self._lines_max:
            window[1] += 1
            return 0
        window[2] += 1
        return None

    def collect(self, now_s: float) -> list[tuple[str, int]]:
        """Events whose second is over, with how many lines were held back in it; forgets them."""
        over = [(event, window) for event, window in self._windows.items() if now_s - window[0] >= 1]
        for event, _ in over:
            del self._windows[event]
        return [(event, int(window[2])) for event, window in over if window[2]]


class Log:
    """Writes the facts of one room. Events are `lower_case` literals, fields are keyword arguments."""

    __slots__ = ("_clock", "_limiter", "_logger")

    def __init__(self, logger: logging.Logger, clock: Callable[[], float] = time.monotonic) -> None:
        self._logger = logger
        self._limiter = Limiter()
        self._clock = clock

    def debug(self, event: str, /, **fields: Any) -> None:
        """What only a developer asks for."""
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        """What an operator wants to find afterwards."""
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        """What an operator should look at; the gateway goes on."""
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        """What somebody must mend."""
        self._write(logging.ERROR, event, fields)

    def failure(self, event: str, error: BaseException, /, **fields: Any) -> None:
        """An error, with the exception behind it; its traceback too unless it is an OtagateError."""
        self._write(logging.ERROR, event, fields, error)

    def limited(self, event: str, /, *, level: Level = "warning", **fields: Any) -> None:
        """What a peer can cause at will: at most `log_lines_per_second_max` lines per event.

        The next line written of the event says in `suppressed` how many were held back before it.
        """
        if self._logger.isEnabledFor(_LEVELS[level]):
            suppressed = self._limiter.admit(event, self._clock())
            if suppressed is not None:
                self._write(_LEVELS[level], event, fields, suppressed=suppressed)

    def report_suppressed(self) -> None:
        """Say what `limited` held back and no later line has told. To be called now and then."""
        for event, suppressed in self._limiter.collect(self._clock()):
            self._write(logging.WARNING, event, {}, suppressed=suppressed)

    def _write(
        self,
        level: int,
        event: str,
        fields: dict[str, Any],
        error: BaseException | None = None,
        suppressed: int = 0,
    ) -> None:
        assert not _RESERVED & fields.keys(), "a field has the name of a part of the line"
        if self._logger.isEnabledFor(level):
            if suppressed:
                fields["suppressed"] = suppressed
            self._logger.log(level, "%s", event, extra={"event": event, "fields": fields}, exc_info=error)


_logs: list[Log] = []  # of all rooms: as many as there are modules that write


def get(room: str) -> Log:
    """The log of a room of the house: "gateway", "store" …"""
    log = Log(logging.getLogger(f"otagate.{room}"))
    _logs.append(log)
    return log


def report_suppressed() -> None:
    """Log.report_suppressed of every room; the gateway calls it once a second."""
    for log in _logs:
        log.report_suppressed()


def configure(level: Level, format: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Send all logs, libraries' from warning on, to `stream` (stderr); replaces what was set before."""
    handler = _Handler(stream)
    handler.setFormatter(_JsonFormatter() if format == "json" else _TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(_LEVELS[level], logging.WARNING))
    logging.getLogger("otagate").setLevel(_LEVELS[level])
    logging.captureWarnings(True)


class _Handler(logging.StreamHandler[TextIO]):
    """A log that cannot be written must not end the gateway, nor complain where it cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's name)
        error = sys.exception()
        if isinstance(error, OSError) or self.stream.closed:
            return  # its disk is full, its pipe is gone, stderr was closed: the line is lost
        with contextlib.suppress(Exception):
            super().handleError(record)


def _time(record: logging.LogRecord) -> str:
    """RFC 3339 in UTC, cut to milliseconds."""
    whole = int(record.created)
    milliseconds = int((record.created - whole) * 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole)) + f".{milliseconds:03d}Z"


def _facts(record: logging.LogRecord) -> tuple[str, dict[str, Any]]:
    """The event and fields of a record; of a library's, its logger's name and its message."""
    event: str = getattr(record, "event", record.name)
    given: dict[str, Any] = getattr(record, "fields", None) or {}
    fields = {name: _plain(value) for name, value in given.items()}
    if not hasattr(record, "event"):
        fields["message"] = _cut(record.getMessage())
    error = record.exc_info[1] if record.exc_info else None
    if error is not None:
        fields["error"] = _plain(error)
        if not isinstance(error, OtagateError):
            fields["traceback"] = "".join(traceback.format_exception(error))
    return event, fields


def _plain(value: Any) -> Plain:
    """A value as it is shown: numbers as they are, an exception as its sentence, all else as its text."""
    if value is None or isinstance(value, bool) or type(value) is int:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, BaseException):
        return _cut(f"{type(value).__name__}: {value}")
    if isinstance(value, bytes):
        return _cut(value[: limits.log_field_chars_max + 1].decode("ascii", "backslashreplace"))
    return _cut(str(value))


def _cut(text: str) -> str:
    return text if len(text) <= limits.log_field_chars_max else text[: limits.log_field_chars_max - 1] + "…"


class _TextFormatter(logging.Formatter):
    """`time level event key=value …`; a value that is not plain is quoted as in JSON."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _facts(record)
        words = [_time(record), record.levelname.lower(), _word(event)]
        words += [f"{_word(name)}={_word(value)}" for name, value in fields.items()]
        return " ".join(words)


class _JsonFormatter(logging.Formatter):
    """One JSON object of ASCII characters: time, level, event, then the fields."""

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _facts(record)
        return json.dumps(
            {"time": _time(record), "level": record.levelname.lower(), "event": event, **fields}
        )


def _word(value: Plain) -> str:
    """One word, or one quoted string in which everything that does not print is escaped."""
    if not isinstance(value, str):
        return json.dumps(value)
    if _BARE.fullmatch(value):
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return quoted if quoted.isprintable() else "".join(map(_escaped, quoted))


def _escaped(character: str) -> str:
    return character if character.isprintable() else json.dumps(character)[1:-1]
