"""The API document: valid, and the same as what is routed and decoded."""

import re
from typing import Any, get_args

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

from otagate import limits
from otagate.admin import build, console, queries
from otagate.admin.routes import OPERATIONS
from otagate.gateway import views

from .conftest import Client
from .fake import FakeService

V1 = "/api/v1"


@pytest.fixture
async def document(client: Client) -> dict[str, Any]:
    client.headers.pop("authorization")
    return dict((await client.get("/openapi.json")).json())


async def test_valid(document: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(document).validate()


async def test_same_as_the_routes(document: dict[str, Any], service: FakeService) -> None:
    described = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}
    routed = {
        (route.path, method)
        for route in build(service).routes
        if isinstance(route, Route)
        for method in route.app._methods
        if method != "HEAD"
    }
    assert described | {(console.ASSETS.path, "GET")} == routed
    own = {("/openapi.json", "GET"), ("/metrics", "GET")}
    assert described == {(o.path, o.method) for o in OPERATIONS} | own


async def test_operation_ids_are_unique(document: dict[str, Any]) -> None:
    ids = [
        operation["operationId"] for methods in document["paths"].values() for operation in methods.values()
    ]
    assert len(ids) == len(set(ids))


async def test_references_resolve(document: dict[str, Any]) -> None:
    names = set(re.findall(r"#/components/schemas/([^']+)'", str(document)))
    assert names
    assert names == set(document["components"]["schemas"])


def parameters(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    return {p["name"]: p for p in document["paths"][path][method]["parameters"]}


async def test_query_parameters(document: dict[str, Any]) -> None:
    found = parameters(document, f"{V1}/products/{{key}}/devices", "get")
    assert found.keys() == {
        "key", "q", "version", "active", "connection", "eligible_for", "allow_rollback",
        "cursor", "limit"
    }  # fmt: skip
    assert found["key"]["in"] == "path"
    assert found["limit"]["schema"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": limits.page_items_max,
        "default": limits.page_items_default,
    }
    assert found["active"]["schema"] == {"type": "boolean"}
    assert sorted(found["connection"]["schema"]["enum"]) == ["offline", "online"]
    upload = parameters(document, f"{V1}/firmware", "post")
    required = {name for name, parameter in upload.items() if parameter.get("required")}
    assert required == {"product", "name", "version", "file_name"}
    assert upload["Content-MD5"]["in"] == "header"


async def test_bodies(document: dict[str, Any]) -> None:
    def body(path: str) -> dict[str, Any]:
        return dict(document["paths"][path]["post"]["requestBody"]["content"])

    devices = body(f"{V1}/products/{{key}}/devices")
    assert devices.keys() == {"application/json", "application/x-ndjson", "text/csv"}
    assert devices["application/json"]["schema"] == {"$ref": "#/components/schemas/RegisterDeviceRequest"}
    assert body(f"{V1}/firmware").keys() == {"*/*"}
    content = document["paths"][f"{V1}/firmware/{{id}}/content"]["get"]["responses"]
    assert content["200"]["content"].keys() == {"application/octet-stream"}


async def test_security(document: dict[str, Any]) -> None:
    assert document["security"] == [{"token": []}, {"session": []}]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            is_login = (method, path) == ("post", f"{V1}/session")
            assert ("security" not in operation) == (path.startswith(V1) and not is_login)
            may_ask = path.startswith(V1) or path == "/metrics"
            assert ("401" in operation["responses"]) == may_ask
            assert ("x-otagate-role" in operation) == ("security" not in operation)


def test_states_are_those_that_are_counted() -> None:
    assert set(get_args(queries.State)) == set(views.CountsView.__struct_fields__) - {"total"}
