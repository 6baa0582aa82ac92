"""GET /metrics: readable, who may, and the requests counted without a label that a client could make up."""

from typing import Any

import pytest
import trio
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from otagate.openmetrics import CONTENT_TYPE

from .conftest import Client, Server
from .fake import FakeService


def requests(text: str) -> dict[tuple[str, str, str], float]:
    """Counted requests, by method, route and status."""
    return {
        (sample.labels["method"], sample.labels["route"], sample.labels["status"]): sample.value
        for family in text_string_to_metric_families(text)
        if family.name == "otagate_http_requests"
        for sample in family.samples
    }


async def test_requests_are_counted_by_route(client: Client) -> None:
    await client.get("/api/v1/products/lamp")
    await client.get("/api/v1/products/none")
    await client.get("/api/v1/products/other")
    await client.head("/livez")
    await client.delete("/livez")
    await client.request("MADE-UP", "/livez")
    await client.get("/made/up")
    response = await client.get("/metrics")
    assert response.headers["content-type"] == CONTENT_TYPE
    assert "otagate_made_up 1\n" in response.text
    assert requests(response.text) == {
        ("GET", "/api/v1/products/{key}", "200"): 1,
        ("GET", "/api/v1/products/{key}", "404"): 2,
        ("HEAD", "/livez", "200"): 1,
        ("other", "/livez", "405"): 2,
    }
    assert requests((await client.get("/metrics")).text)["GET", "/metrics", "200"] == 1


async def test_a_fault_and_one_who_left_are_counted(client: Client, service: FakeService) -> None:
    service.broken = True
    await client.get("/api/v1/products")
    found = requests((await client.get("/metrics")).text)
    assert found["GET", "/api/v1/products", "500"] == 1


async def test_one_who_left_before_the_answer(server: Server, no_log: Any) -> None:
    stream = await server.connect()
    await stream.send_all(b"POST /api/v1/products HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n")
    await stream.send_all(b"Authorization: Bearer a-token-for-tests\r\n\r\n{")
    await stream.aclose()
    with trio.fail_after(20):
        while True:
            text = (await server.curl(f"{server.url}/metrics")).decode()
            if ("POST", "/api/v1/products", "left") in requests(text):
                return


async def test_a_token_if_it_is_wanted(client: Client, service: FakeService) -> None:
    nobody = {"authorization": ""}
    assert (await client.get("/metrics", headers=nobody)).status_code == 200
    service.metrics_need_token = True
    assert (await client.get("/metrics", headers=nobody)).status_code == 401
    assert (await client.get("/metrics")).status_code == 200
    viewer = {"authorization": "Bearer a-token-to-look"}
    assert (await client.get("/metrics", headers=viewer)).status_code == 200


@pytest.mark.parametrize(("path", "status"), [("/livez", "live"), ("/readyz", "ready")])
async def test_health_names_each_check(client: Client, path: str, status: str) -> None:
    response = await client.get(path, headers={"authorization": ""})
    assert response.status_code == 200
    assert response.json()["status"] == status
    assert [check["ok"] for check in response.json()["checks"]] == [True]


async def test_not_ready_says_why(client: Client, service: FakeService) -> None:
    service.reasons = ["the gateway is stopping"]
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["error"] == {
        "code": "not_ready",
        "message": "The gateway is not ready: the gateway is stopping.",
        "details": [{"name": "listeners", "ok": False, "message": "the gateway is stopping"}],
    }
