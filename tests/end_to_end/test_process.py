"""The real command under clients that are not ours: whole upgrades, failures, drains."""

import itertools
import json
import os
import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio_websocket

from otagate.store.check import main as check_store
from tests.end_to_end import clients
from tests.end_to_end.clients import Conversation, NodeWs, PlainSocket, Websockets, upgrade
from tests.end_to_end.device import SECRET, Chunk, encode, mac
from tests.end_to_end.process import GatewayProcess, Operator, running

IMAGE = os.urandom(1_500_001)
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """One process for all tests of this module; its store is checked in the end."""
    data = tmp_path_factory.mktemp("process") / "data"
    with running(data) as process:
        yield process
    assert check_store([str(data)]) == 0


@pytest.fixture
def operator(gateway: GatewayProcess) -> Iterator[Operator]:
    with Operator(gateway) as client:
        yield client


@pytest.fixture
def product(operator: Operator) -> str:
    """A product of this test alone, with a device d1."""
    key = f"p{next(NUMBERS)}"
    operator.create_product(key)
    operator.register("d1", product=key)
    return key


def dial_of(client: str) -> clients.Dial:
    found: dict[str, clients.Dial] = {"socket": PlainSocket, "websockets": Websockets, "ws": NodeWs}
    return found[client]


def seen(gateway: GatewayProcess, client: str, product: str) -> None:
    """The device has logged in once, with version 1.0: it is eligible from now on."""
    connection = dial_of(client)(gateway.devices)
    Conversation(connection, "d1", product).log_in("1.0")
    connection.close()


@pytest.mark.parametrize("chunk_size", [256, 65536, 262144])
@pytest.mark.parametrize("client", ["socket", "websockets", "ws"])
def test_a_whole_upgrade(
    gateway: GatewayProcess, operator: Operator, product: str, client: str, chunk_size: int
) -> None:
    image = IMAGE if chunk_size > 256 else IMAGE[:50_001]
    seen(gateway, client, product)
    firmware = operator.add_firmware("2.0", image, product)
    batch = operator.create_batch(firmware)
    upgrade(dial_of(client), gateway.devices, "d1", product=product, chunk_size=chunk_size)
    found = operator.upgrade(batch, "d1")
    assert (found["state"], found["version"], found["progress"]) == ("succeeded", "2.0", 100)
    assert [(entry["state"], entry["attempt"]) for entry in found["timeline"]] == [
        ("pushed", 1),
        ("to_be_upgraded", 1),
        ("upgrading", 1),
        ("succeeded", 1),
    ]
    view = operator.call("GET", f"/batches/{batch}")
    assert (view["status"], view["counts"]["succeeded"]) == ("completed", 1)
    device = operator.call("GET", f"/products/{product}/devices/d1")
    assert device["version"] == "2.0"


async def test_a_whole_upgrade_with_trio_websocket(
    gateway: GatewayProcess, operator: Operator, product: str
) -> None:
    host, port = gateway.devices
    connect = partial(
        trio_websocket.open_websocket, host, port, "/device", use_ssl=False, subprotocols=["otagate.v1"]
    )

    async def log_in(socket: trio_websocket.WebSocketConnection, version: str) -> None:
        nonce = json.loads(await socket.get_message())["nonce"]
        proof = mac(SECRET, nonce, product, "d1")
        hello = encode("hello", product=product, device="d1", version=version, mac=proof)
        await socket.send_message(hello.decode())
        assert json.loads(await socket.get_message())["type"] == "welcome"

    with trio.fail_after(60):
        async with connect() as socket:
            await log_in(socket, "1.0")
        firmware = await trio.to_thread.run_sync(operator.add_firmware, "2.0", IMAGE, product)
        batch = await trio.to_thread.run_sync(operator.create_batch, firmware)
        async with connect() as socket:
            await log_in(socket, "1.0")
            offer = json.loads(await socket.get_message())
            assert offer["batch"] == batch
            fetch = encode("fetch", transfer=5, firmware=firmware, offset=0)
            await socket.send_message(fetch.decode())
            data = bytearray()
            while len(data) < len(IMAGE):
                chunk = Chunk.parse(await socket.get_message())
                assert (chunk.transfer, chunk.offset) == (5, len(data))
                data += chunk.data
            assert bytes(data) == IMAGE
            await socket.ping(b"alive")
        async with connect() as socket:
            await log_in(socket, "2.0")
    assert operator.upgrade(batch, "d1")["state"] == "succeeded"


@pytest.mark.parametrize("reason", ["download_failed", "verification_failed", "burn_failed", "other", None])
@pytest.mark.parametrize("client", ["socket", "websockets"])
def test_failure_reasons(
    gateway: GatewayProcess, operator: Operator, product: str, client: str, reason: str | None
) -> None:
    seen(gateway, client, product)
    batch = operator.create_batch(operator.add_firmware("2.0", IMAGE, product))
    connection = dial_of(client)(gateway.devices)
    device = Conversation(connection, "d1", product)
    device.log_in("1.0")
    offer = device.message("upgrade")
    fields: dict[str, Any] = {} if reason is None else {"reason": reason}
    device.ask(
        "ack",
        "result",
        batch=batch,
        attempt=offer["attempt"],
        outcome="failed",
        detail="Grund 原因",
        **fields,
    )
    connection.close()
    found = operator.upgrade(batch, "d1")
    assert (found["state"], found["remark"], found["detail"]) == ("failed", reason or "other", "Grund 原因")


@pytest.mark.parametrize("client", ["socket", "websockets"])
def test_silent_policy_and_abort(
    gateway: GatewayProcess, operator: Operator, product: str, client: str
) -> None:
    seen(gateway, client, product)
    batch = operator.create_batch(operator.add_firmware("2.0", IMAGE, product), policy="silent")
    connection = dial_of(client)(gateway.devices)
    device = Conversation(connection, "d1", product)
    device.log_in("1.0")
    assert device.message("upgrade")["policy"] == "silent"
    device.ask("ack", "received", batch=batch, attempt=1)
    assert operator.upgrade(batch, "d1")["waiting_for"] == "the device to start"
    assert device.ask("upgrade", "check")["batch"] == batch
    view = operator.call("POST", f"/batches/{batch}/abort", 200)
    assert (view["status"], view["counts"]["failed"]) == ("aborted", 1)
    assert device.message("cancel")["reason"] == "aborted"
    device.ask("cancel", "progress", batch=batch, attempt=1, stage="burning", percent=0)
    connection.close()
    operator.call("POST", f"/batches/{batch}/abort", 409)


def test_many_at_once_on_all_clients(gateway: GatewayProcess, operator: Operator, product: str) -> None:
    names = [f"m{number}" for number in range(12)]
    operator.register(*names, product=product)
    kinds = ["socket", "websockets", "ws"]
    for number, name in enumerate(names):
        connection = dial_of(kinds[number % 2])(gateway.devices)
        Conversation(connection, name, product).log_in("1.0")
        connection.close()
    batch = operator.create_batch(operator.add_firmware("2.0", IMAGE, product))
    threads = [
        threading.Thread(
            target=upgrade,
            args=(dial_of(kinds[number % 3]), gateway.devices, name),
            kwargs={"product": product},
        )
        for number, name in enumerate(names)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    view = operator.call("GET", f"/batches/{batch}")
    assert (view["status"], view["counts"]["succeeded"]) == ("completed", len(names))


@pytest.mark.parametrize("client", ["socket", "websockets"])
def test_sigterm_says_goodbye_and_loses_nothing(tmp_path: Path, client: str) -> None:
    with running(tmp_path / "data") as gateway, Operator(gateway) as operator:
        operator.create_product()
        operator.register("d1")
        seen(gateway, client, "lamp")
        batch = operator.create_batch(operator.add_firmware("2.0", IMAGE))
        connection = dial_of(client)(gateway.devices)
        device = Conversation(connection, "d1")
        device.log_in("1.0")
        device.message("upgrade")
        device.send("received", batch=batch, attempt=1, id="last")
        gateway.terminate()
        received = json.loads(connection.receive())
        if received["type"] == "ack":
            received = json.loads(connection.receive())
        assert received["type"] == "goodbye"
        with pytest.raises((ConnectionError, OSError)):
            connection.receive()
        connection.close()
    with running(tmp_path / "data") as gateway, Operator(gateway) as operator:
        assert operator.upgrade(batch, "d1")["state"] in ("pushed", "to_be_upgraded")
        connection = dial_of(client)(gateway.devices)
        device = Conversation(connection, "d1")
        device.log_in("2.0")
        connection.close()
        assert operator.upgrade(batch, "d1")["state"] == "succeeded"
    assert check_store([str(tmp_path / "data")]) == 0


def test_sigterm_lets_an_upload_end(tmp_path: Path) -> None:
    with running(tmp_path / "data") as gateway, Operator(gateway) as operator:
        operator.create_product()
        query = "product=lamp&name=late&version=2.0&file_name=late.bin"
        with socket.create_connection(gateway.admin) as upload:
            head = (
                f"POST /api/v1/firmware?{query} HTTP/1.1\r\nHost: localhost\r\n"
                f"Authorization: Bearer {gateway.token}\r\nContent-Length: 2\r\n"
                "Expect: 100-continue\r\nConnection: close\r\n\r\n"
            )
            upload.sendall(head.encode())
            answer = upload.makefile("rb")
            assert answer.readline() == b"HTTP/1.1 100 \r\n"  # it is being served
            gateway.terminate()
            gateway.wait_for(lambda: "draining" in gateway.log)
            upload.sendall(b"ab")
            assert b"HTTP/1.1 201" in answer.read()
