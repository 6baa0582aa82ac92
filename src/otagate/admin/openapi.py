"""The API document (OpenAPI 3.1), made of the table of operations and of the types that decode requests."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import Struct

import otagate
from otagate.admin.auth import COOKIE
from otagate.admin.faults import ErrorBody
from otagate.admin.operations import JSON, Operation, Reply

Json = dict[str, Any]

_REFERENCE = "#/components/schemas/{name}"
_TEXTS_OF_PATH = {
    "key": "Key of the product.",
    "identifier": "Identifier of the device.",
    "id": "Id, made by the gateway.",
}

_OR_ABOVE = {"viewer": ", or any other", "operator": " or admin"}
_IDEMPOTENCY_KEY = (
    ("Idempotency-Key", "Makes a request that may be sent again: for 24 hours the same answer is given."),
)


def document(operations: Sequence[Operation]) -> Json:
    """The document as a JSON-able dict."""
    types = {reply.type for op in operations for reply in op.replies if reply.type is not None}
    types |= {op.body for op in operations if op.body is not None}
    ordered = [*sorted(types, key=str), ErrorBody]
    schemas, components = msgspec.json.schema_components(ordered, ref_template=_REFERENCE)
    schema_of = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, Json] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "otagate",
            "version": otagate.__version__,
            "description": "Products, devices, firmware and batch upgrades. Every GET is also a HEAD.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": COOKIE,
                    "description": "Of the console; unless it only reads, with `csrf` in X-CSRF-Token.",
                },
            },
        },
        "security": [{"token": []}, {"session": []}],
    }


def _operation(operation: Operation, schema_of: dict[Any, Any]) -> Json:
    replies: Json = {}
    for reply in operation.replies:
        _add_reply(replies.setdefault(str(reply.status), {}), reply, schema_of)
    errors = {str(status): _error(status, schema_of[ErrorBody]) for status in operation.error_statuses}
    description: Json = {
        "operationId": operation.handler.__name__,
        "summary": operation.summary,
        "parameters": _parameters(operation),
        "responses": replies | errors,
    }
    if operation.public:
        description["security"] = []
    else:
        role = operation.role.label
        description["description"] = f"Needs a token of role {role}{_OR_ABOVE.get(role, '')}."
        description["x-otagate-role"] = role
    content: Json = {}
    if operation.body is not None:
        content[JSON] = {"schema": schema_of[operation.body]}
    for media in operation.streams:
        content[media] = {}  # bytes or lines: nothing that a JSON schema could say
    if content:
        description["requestBody"] = {"required": True, "content": content}
    return description


def _parameters(operation: Operation) -> list[Json]:
    found: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _TEXTS_OF_PATH[name],
            "schema": {"type": "string"},
        }
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    found += _query_parameters(operation.query)
    headers = operation.headers + (_IDEMPOTENCY_KEY if operation.repeatable else ())
    found += [
        {"name": name, "in": "header", "description": text, "schema": {"type": "string"}}
        for name, text in headers
    ]
    return found


def _query_parameters(query: type[Struct]) -> list[Json]:
    _, components = msgspec.json.schema_components([query], ref_template=_REFERENCE)
    schema = components[query.__name__]
    found = []
    for name, field in schema["properties"].items():
        bounds = {key: value for key, value in field.items() if key != "description"}
        choices = [choice for choice in bounds.pop("anyOf", []) if choice != {"type": "null"}]
        if choices:  # optional: in a query that is an absent parameter, not null
            bounds = choices[0]
        parameter = {"name": name, "in": "query", "required": name in schema["required"], "schema": bounds}
        if "description" in field:
            parameter["description"] = field["description"]
        found.append(parameter)
    return found


def _add_reply(described: Json, reply: Reply, schema_of: dict[Any, Any]) -> None:
    """One form of the answer of a status; the first says what it is."""
    described.setdefault("description", reply.description)
    if reply.type is not None:
        described.setdefault("content", {})[reply.media] = {"schema": schema_of[reply.type]}
    elif reply.media != JSON:
        described.setdefault("content", {})[reply.media] = {}


def _error(status: int, schema: Json) -> Json:
    return {"description": HTTPStatus(status).phrase, "content": {JSON: {"schema": schema}}}
