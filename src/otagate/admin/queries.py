"""The query parameters of each operation, as types: what is decoded is what the API document shows.

A parameter that an operation does not have is refused: a misspelt filter must not list everything. An empty
value is the same as no value.
"""

from typing import Annotated, Literal, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from otagate import limits
from otagate.admin.faults import refusal
from otagate.errors import Invalid, Malformed, RequestError

State = Literal[
    "to_be_pushed", "pushed", "to_be_upgraded", "upgrading", "to_be_retried", "succeeded", "failed"
]
Status = Literal["in_progress", "completed", "aborted"]
Connection = Literal["online", "offline"]

Search = Annotated[
    str, Meta(max_length=limits.query_text_chars_max, description="Only those that contain this text.")
]
Cursor = Annotated[str | None, Meta(description="`next` of the page before; absent for the first page.")]
Limit = Annotated[int, Meta(ge=1, le=limits.page_items_max, description="Items on a page at most.")]
Product = Annotated[str | None, Meta(description="Only those of the product with this key.")]


class NoQuery(Struct, frozen=True):
    """No parameter."""


class PageQuery(Struct, frozen=True):
    """Lists without a filter."""

    cursor: Cursor = None
    limit: Limit = limits.page_items_default


class DevicesQuery(Struct, frozen=True):
    """GET /products/{key}/devices."""

    q: Search = ""
    version: Annotated[str | None, Meta(description="Only devices that last reported this version.")] = None
    active: Annotated[bool | None, Meta(description="Only devices that have (not) ever logged in.")] = None
    connection: Annotated[Connection | None, Meta(description="Only devices online or offline now.")] = None
    eligible_for: Annotated[
        str | None, Meta(description="Only devices that a batch of the firmware with this id could take.")
    ] = None
    allow_rollback: Annotated[
        bool, Meta(description="With eligible_for: of a batch that allows rollback.")
    ] = False
    cursor: Cursor = None
    limit: Limit = limits.page_items_default


class FirmwareQuery(Struct, frozen=True):
    """GET /firmware."""

    product: Product = None
    q: Search = ""
    cursor: Cursor = None
    limit: Limit = limits.page_items_default


class BatchesQuery(Struct, frozen=True):
    """GET /batches."""

    firmware: Annotated[str | None, Meta(description="Only batches of the firmware with this id.")] = None
    product: Product = None
    status: Annotated[Status | None, Meta(description="Only batches in this status.")] = None
    cursor: Cursor = None
    limit: Limit = limits.page_items_default


class UpgradesQuery(Struct, frozen=True):
    """GET /batches/{id}/devices."""

    state: Annotated[State | None, Meta(description="Only device upgrades in this state.")] = None
    q: Search = ""
    cursor: Cursor = None
    limit: Limit = limits.page_items_default


class EventsQuery(Struct, frozen=True):
    """GET /events."""

    batch: Annotated[str | None, Meta(description="Only this batch, and with it the rows that change.")] = (
        None
    )
    product: Product = None


class AuditQuery(Struct, frozen=True):
    """GET /audit."""

    actor: Annotated[str | None, Meta(description="Only what the token of this name did.")] = None
    action: Annotated[str | None, Meta(description="Only this action, as batch.create.")] = None
    cursor: Cursor = None
    limit: Limit = limits.page_items_default


Parameters = TypeVar("Parameters", bound=Struct)


def parse(query: bytes, parameters: type[Parameters]) -> Parameters:
    """Decode a query string.

    Malformed: not UTF-8, a parameter given twice, a number or truth value that is none.
    Invalid: a parameter that is unknown, missing or out of bounds. Both name the parameter.
    """
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=50)
    except ValueError as error:
        raise Malformed("The query cannot be read.") from error
    values: dict[str, str] = {}
    for name, value in pairs:
        if name not in parameters.__struct_fields__:
            raise Invalid("There is no such query parameter here.", field=name)
        if name in values:
            raise Malformed("This query parameter is given twice.", field=name)
        values[name] = value
    present = {name: value for name, value in values.items() if value}
    try:
        return msgspec.convert(present, parameters, strict=False)
    except msgspec.ValidationError as error:
        raise _named(error) from error


def _named(error: msgspec.ValidationError) -> RequestError:
    refused = refusal(error)
    if "got `str`" in refused.message:  # a text where a number or a truth value belongs
        return Malformed(refused.message.replace(", got `str`", ""), field=refused.field)
    return refused
