"""What an attacker sends to the operators' listener: heads, framing, names of hosts, origins, places, bodies.

Against the real listener by raw sockets; docs/threats.md says what each is about.
"""

import json
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from otagate import config, limits
from otagate.admin.exports import cell
from otagate.admin.server import Places

from .conftest import AUTHORIZED, Client, Server, serving
from .fake import TOKEN, TOKENS, FakeService
from .operators import error_of
from .test_server import HEAD, read_all, read_answer, still_serves

V1 = "/api/v1"
MANY = "".join(f"a{number}: b\r\n" for number in range(limits.admin_headers_max))
LONG = "a" * limits.admin_head_bytes_max  # and yet it arrives in one piece
POST = "POST /livez HTTP/1.1\r\nHost: x\r\n"
LOG_IN = f"POST {V1}/session HTTP/1.1\r\nHost: x\r\nContent-Length: 13\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        # framing that two servers read in two ways
        (f"{POST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST /livez HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n", 501),
        ("POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length : 5\r\n\r\nabcde", 400),
        ("POST /livez HTTP/1.1\r\nHost: x\r\nContent-Length:\r\n 5\r\n\r\nabcde", 400),
        ("GET /livez HTTP/1.1\r\nHost: x\r\nA: b\r\n\tTransfer-Encoding: chunked\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\nHost: x\n\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: x\r\nA: b\nC: d\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: x\r\n\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        ("GET /livez HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n", 400),
        # methods
        ("head /livez HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("get /livez HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        ("HEAD / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        ("TRACE / HTTP/1.1\r\nHost: x\r\nCookie: secret\r\n\r\n", 405),
        ("OPTIONS / HTTP/1.1\r\nHost: x\r\nOrigin: http://y\r\n"
         "Access-Control-Request-Method: GET\r\n\r\n", 405),
        ("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("CONNECT x:80 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        # targets
        ("GET http://x/livez HTTP/1.1\r\nHost: evil.example\r\n\r\n", 200),
        ("GET http://evil.example/livez HTTP/1.1\r\nHost: x\r\n\r\n", 421),
        ("GET http://x HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (f"GET {V1}%2Fproducts HTTP/1.1\r\n{HEAD}\r\n", 404),
        (f"GET {V1}/products/lamp%2fdevices HTTP/1.1\r\n{HEAD}\r\n", 404),
        (f"GET {V1}/products/..%00 HTTP/1.1\r\n{HEAD}\r\n", 404),
        (f"GET {V1}/products/%c0%ae%c0%ae HTTP/1.1\r\n{HEAD}\r\n", 404),
        ("GET //livez HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        ("GET /console/../livez HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        # bounds
        (f"GET /livez HTTP/1.1\r\nHost: x\r\n{MANY}\r\n", 431),
        (f"GET /livez HTTP/1.1\r\nHost: x\r\nA: {LONG}\r\n\r\n", 431),
        (f"GET /livez?{LONG} HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        (f"{LONG} /livez HTTP/1.1\r\nHost: x\r\n\r\n", 431),
        # an Origin that is no URL was once a fault of ours
        (LOG_IN + 'Origin: http://[\r\n\r\n{"token":"x"}', 403),
    ],
)  # fmt: skip
async def test_heads(server: Server, no_log: pytest.LogCaptureFixture, sent: str, status: int) -> None:
    async with await server.connect() as stream:
        await stream.send_all(sent.encode())
        await stream.send_eof()
        answer = await read_all(stream)
    assert answer.split(b" ")[1] == b"%d" % status, answer
    assert len(re.findall(rb"HTTP/1\.1 [0-9]", answer)) == 1  # what was smuggled behind it is not answered
    assert b"secret" not in answer
    assert b"access-control" not in answer.lower()
    assert await still_serves(server)


@pytest.mark.parametrize(
    "request_head",
    [
        f"POST /nowhere HTTP/1.1\r\n{HEAD}Content-Length: 3\r\n\r\nabc",
        f"POST /nowhere HTTP/1.1\r\n{HEAD}Transfer-Encoding: CHUNKED\r\n\r\n0\r\n\r\n",
        f"POST /nowhere HTTP/1.1\r\n{HEAD}Content-Length: 3, 3\r\n\r\nabc",
        f"GET /nowhere HTTP/1.1\r\n{HEAD}Connection: close\r\n\r\n",
    ],
)
async def test_what_follows_the_last_request_costs_it_nothing(
    server: Server, no_log: pytest.LogCaptureFixture, request_head: str
) -> None:
    behind = f"GET {V1}/products HTTP/1.1\r\n{HEAD}\r\n"
    async with await server.connect() as stream:
        await stream.send_all((request_head + behind).encode())
        head, _, body = (await read_all(stream)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404 ")
        assert json.loads(body)["error"]["code"] == "not_found"


# -- whose name it is ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("x", 200),
        ("X.:7780", 200),
        ("localhost", 200),
        ("ota.localhost:7780", 200),
        ("127.0.0.1:7780", 200),
        ("[::1]:7780", 200),
        ("10.1.2.3", 200),
        ("evil.example", 421),
        ("x.evil.example", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("x@evil.example", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
async def test_host(server: Server, host: str, status: int) -> None:
    async with await server.connect() as stream:
        await stream.send_all(f"GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        found, _, body = await read_answer(stream)
    assert found == status
    if status == 421:
        error = json.loads(body)["error"]
        assert (error["code"], error["field"]) == ("misdirected", "Host")
        assert "admin.hosts" in error["message"]


async def test_only_who_brings_a_token_comes_by_any_name(client: Client) -> None:
    """A page of another site has none; and what needs none is shown to nobody by such a name."""
    elsewhere = {"host": "evil.example"}
    assert (await client.get(f"{V1}/products", headers=elsewhere)).status_code == 200
    refused = await client.get(f"{V1}/products", headers=elsewhere | {"authorization": "Bearer x"})
    assert error_of(refused) == (401, "unauthorized")
    for path in ("/", "/metrics", "/openapi.json"):
        assert error_of(await client.get(path, headers=elsewhere)) == (421, "misdirected")
    del client.headers["authorization"]
    assert error_of(await client.get(f"{V1}/products", headers=elsewhere)) == (421, "misdirected")
    refused = await client.post(f"{V1}/session", json={"token": TOKEN}, headers=elsewhere)
    assert error_of(refused) == (421, "misdirected")


async def test_below_tls_the_certificate_decides(service: FakeService, client: Client) -> None:
    response = await client.get("https://other/livez")
    assert response.status_code == 421
    service.host_names = frozenset()
    assert (await client.get("https://other/livez")).status_code == 200
    assert (await client.get("http://other/livez")).status_code == 421


@pytest.mark.parametrize("text", ["", "a", "A.example, b_c", "10.0.0.1"])
def test_names_of_hosts(text: str) -> None:
    assert config.HostNames(text).names == {part.strip().lower() for part in text.split(",") if part}


@pytest.mark.parametrize("text", ["a:80", "http://a", "*", "-a", "a b", "é"])
def test_no_names_of_hosts(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        config.HostNames(text)


# -- other sites' pages --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),  # a page of another port
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "https://test"}, 200),
        ({"origin": "http://test"}, 403),  # a page without TLS
        ({"origin": "http://["}, 403),
    ],
)
async def test_other_pages(client: Client, headers: dict[str, str], status: int) -> None:
    response = await client.post("https://test/api/v1/session", json={"token": TOKEN}, headers=headers)
    assert response.status_code == status, response.text


async def test_below_tls_no_other_host_puts_a_session(service: FakeService, client: Client) -> None:
    """A sibling of our domain may set a cookie for all of it, but none that begins with __Host-."""
    del client.headers["authorization"]
    cookie, _ = service.access.open_session(TOKEN, "192.0.2.1")
    for scheme, name, status in [
        ("https", "otagate_session", 401),
        ("https", "__Host-otagate_session", 200),
        ("http", "otagate_session", 200),
        ("http", "__Host-otagate_session", 200),  # behind a proxy that ends TLS
    ]:
        headers = {"cookie": f"{name}={cookie}"}
        response = await client.get(f"{scheme}://test/api/v1/products", headers=headers)
        assert response.status_code == status, (scheme, name)


async def test_no_answer_is_a_page_or_part_of_one(client: Client) -> None:
    for response in (await client.get("/livez"), await client.get("/nowhere", headers=AUTHORIZED)):
        assert response.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert response.headers["cross-origin-resource-policy"] == "same-origin"
        assert response.headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_is_a_formula(begin: str) -> None:
    assert cell(f"{begin}1") == f"'{begin}1"


# -- places, and bodies that take for ever ---------------------------------------------------------------


async def test_strangers_make_room(
    service: FakeService, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(limits, "admin_connections_max", 3)
    caplog.set_level(logging.WARNING)
    request = f"GET {V1}/products/lamp HTTP/1.1\r\n{HEAD}\r\n".encode()
    async with serving(service) as server, await server.connect() as operator:
        await operator.send_all(request)
        assert (await read_answer(operator))[0] == 200
        strangers = [await server.connect() for _ in range(6)]
        for stranger in strangers[:4]:  # the eldest go
            assert await read_all(stranger) == b""
        await operator.send_all(request)
        assert (await read_answer(operator))[0] == 200
        for stream in strangers:
            await stream.aclose()
    assert {record.message for record in caplog.records} == {"operator_refused"}


async def test_who_is_known_stays(service: FakeService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "admin_connections_max", 1)
    async with serving(service) as server, await server.connect() as operator:
        request = f"GET {V1}/products/lamp HTTP/1.1\r\n{HEAD}\r\n".encode()
        await operator.send_all(request)
        assert (await read_answer(operator))[0] == 200
        async with await server.connect() as stranger:
            assert await read_all(stranger) == b""
        await operator.send_all(request)
        assert (await read_answer(operator))[0] == 200


async def test_one_token_does_not_take_all_places(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it has beyond its share makes room, as strangers do."""
    monkeypatch.setattr(limits, "admin_connections_max", 3)
    monkeypatch.setattr(limits, "admin_connections_per_token_max", 1)

    def request(role: str) -> bytes:
        head = f"Host: x\r\nAuthorization: Bearer {TOKENS[role]}\r\n"
        return f"GET {V1}/products/lamp HTTP/1.1\r\n{head}\r\n".encode()

    async with serving(service) as server:
        greedy = [await server.connect() for _ in range(3)]
        for stream in greedy:
            await stream.send_all(request("operator"))
            assert (await read_answer(stream))[0] == 200
        async with await server.connect() as other:
            await other.send_all(request("admin"))
            assert (await read_answer(other))[0] == 200
            assert await read_all(greedy[1]) == b"", "the eldest beyond its share"
            for stream in (greedy[0], greedy[2]):
                await stream.send_all(request("operator"))
                assert (await read_answer(stream))[0] == 200
        for stream in greedy:
            await stream.aclose()


async def test_who_leaves_gives_the_share_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "admin_connections_per_token_max", 1)
    places = Places(1)
    for _ in range(2):
        with places.take() as note_known:
            assert note_known is not None
            note_known(7)
            note_known(7)  # with each request
            with places.take() as other:
                assert other is None, "who is known stays"


async def test_a_stranger_sends_little(server: Server, no_log: pytest.LogCaptureFixture) -> None:
    size = limits.json_body_bytes_max + 1
    async with await server.connect() as stream:
        head = f"POST {V1}/session HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n"
        await stream.send_all(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert (await read_answer(stream))[0] == 413


async def test_large_bodies_are_few_at_a_time(
    service: FakeService, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """250 connections of one token once took 4 GiB for them, and the devices' gateway with it."""
    monkeypatch.setattr(limits, "large_bodies_max", 3)
    monkeypatch.setattr(limits, "large_bodies_per_token_max", 2)
    reading = [trio.Event() for _ in range(3)]
    enough = trio.Event()

    async def body(number: int) -> AsyncIterator[bytes]:
        yield b" "
        reading[number].set()
        await enough.wait()

    async def post(token: str, content: Any) -> int:
        authorization = {"authorization": f"Bearer {token}"}
        return (await client.post(f"{V1}/batches", content=content, headers=authorization)).status_code

    first, second = (TOKENS[role] for role in ("operator", "admin"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(post, first, body(0))
        nursery.start_soon(post, first, body(1))
        await reading[0].wait()
        await reading[1].wait()
        large = b" " * (limits.json_body_bytes_max + 1)
        assert await post(first, large) == 503, "its own"
        assert await post(first, large[1:]) == 400, "an ordinary one needs no place"
        nursery.start_soon(post, second, body(2))
        await reading[2].wait()
        assert await post(second, large) == 503, "all of them"
        enough.set()
    assert await post(first, large) == 400, "there are places again"


async def test_a_body_that_trickles_is_given_up(autojump_clock: object, client: Client) -> None:
    """Each byte comes in time, the whole does not."""

    async def trickle() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await trio.sleep(limits.admin_body_stall_ms / 1000 - 1)

    began_s = trio.current_time()
    response = await client.post(f"{V1}/products", content=trickle())
    assert error_of(response) == (408, "timeout")
    assert trio.current_time() - began_s < 2 * limits.admin_body_stall_ms / 1000


async def test_a_body_may_take_long(autojump_clock: object, client: Client) -> None:
    async def plod() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield bytes(2 * limits.admin_body_bytes_per_s_min)
            await trio.sleep(2)

    response = await client.post(f"{V1}/products", content=plod())
    assert error_of(response) == (400, "malformed")
