"""Errors on their way to the client: those that only HTTP knows, and the one body that all of them have.

`refusal` turns what msgspec says about a bad body, line or query into a RequestError that names the field;
`errors.py` has the tree that it extends.
"""

import re
from typing import Any

import msgspec
from msgspec import Struct

from otagate.errors import Invalid, Malformed, RequestError


class Csrf(RequestError):
    """A request that leans on a cookie and may have been made by another site's page."""

    status = 403
    code = "csrf"


class PreconditionFailed(RequestError):
    """The thing is not what If-Match says (RFC 9110 section 15.5.13)."""

    status = 412
    code = "precondition_failed"


class Misdirected(RequestError):
    """A Host that is no name of this gateway (RFC 9110 section 15.5.20)."""

    status = 421
    code = "misdirected"


class KeyReused(RequestError):
    """An Idempotency-Key that came with another request before."""

    status = 422
    code = "idempotency_key_reused"


class MethodNotAllowed(RequestError):
    """The path exists, the method on it does not (RFC 9110 section 15.5.6)."""

    status = 405
    code = "method_not_allowed"


class BodyTimeout(RequestError):
    """The body stalled, or came slower than it may (RFC 9110 section 15.5.9)."""

    status = 408
    code = "timeout"


class UnsupportedMediaType(RequestError):
    """A body of a type that this operation does not read (RFC 9110 section 15.5.16)."""

    status = 415
    code = "unsupported_media_type"


class RangeNotSatisfiable(RequestError):
    """A range that begins after the end (RFC 9110 section 15.5.17)."""

    status = 416
    code = "range_not_satisfiable"


class NotReady(RequestError):
    """The gateway does not take devices or operators yet, or no longer."""

    status = 503
    code = "not_ready"


class ErrorDetails(Struct, frozen=True, omit_defaults=True):
    """What went wrong: a stable `code`, a sentence, the `field` at fault, and what else there is to know."""

    code: str
    message: str
    field: str | None = None
    details: Any = None


class ErrorBody(Struct, frozen=True):
    """The body of every answer that is not a success."""

    error: ErrorDetails


INTERNAL = ErrorBody(ErrorDetails("internal", "Something went wrong in the gateway; its log says what."))


def body_of(error: RequestError) -> ErrorBody:
    """The error as the client reads it."""
    return ErrorBody(ErrorDetails(error.code, error.message, error.field, error.details))


_PLACE = re.compile(r"(?P<what>.*?)(?: - at `(?:key in )?\$(?P<place>[^`]*)`)?", re.DOTALL)
_NAMED = re.compile(r"Object (?:contains unknown|missing required) field `(?P<name>.*)`", re.DOTALL)


def refusal(error: Exception) -> RequestError:
    """What msgspec (or a UTF-8 or number parser) raised, as the error that the client gets.

    ValidationError (wrong type, unknown or missing field) becomes Invalid with the field's path; any other
    becomes Malformed.
    """
    if not isinstance(error, msgspec.ValidationError):
        if isinstance(error, UnicodeDecodeError):
            return Malformed("This is not UTF-8.")
        if isinstance(error, RecursionError):
            return Malformed("This is nested too deeply.")
        return Malformed(f"This is not JSON: {error}.")
    match = _PLACE.fullmatch(str(error))
    assert match is not None  # both groups may be empty
    what, place = match["what"], (match["place"] or "").replace("[...]", "").lstrip(".")
    named = _NAMED.fullmatch(what)
    if named is not None:
        place = f"{place}.{named['name']}" if place else named["name"]
    return Invalid(f"{what}.", field=place or None)
