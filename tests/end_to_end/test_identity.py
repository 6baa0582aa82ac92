"""Who is not the device: a recorded login, another's numbers, an old secret. Where secrets are seen."""

from pathlib import Path

import httpx
import pytest
import trio

from otagate.gateway.views import RegisterDeviceRequest
from otagate.store.sealing import KEY_FILE
from tests.end_to_end.device import SECRET, TEXT, Device, encode, mac
from tests.end_to_end.process import Operator, running
from tests.end_to_end.test_table import begin
from tests.end_to_end.world import FIRMWARE, IMAGE, NEW, OLD, World

UNAUTHORIZED = 4001
CHUNK = 65536
THIEF_SECRET = "another secret, which x1 alone has"


async def refused(device: Device) -> None:
    """The login was refused, and the connection ends."""
    assert (await device.receive("error"))["code"] == "unauthorized"
    assert await device.wait_closed() == UNAUTHORIZED


async def register_thief(world: World) -> None:
    """x1, a device like others."""
    await world.service.register_device("lamp", RegisterDeviceRequest("x1", secret=THIEF_SECRET))


# -- logins ----------------------------------------------------------------------------------------


async def test_a_recorded_login_is_useless(world: World, link: str) -> None:
    device = await world.connect("d1", link)
    recorded = device.frame(TEXT, encode(**device.hello(OLD)))
    await device.send_bytes(recorded)
    await device.receive("welcome")
    for _ in range(2):  # while the session lives, and when it is over
        thief = await world.connect("d1", link)
        assert thief.nonce != device.nonce
        await thief.send_bytes(recorded)
        await refused(thief)
        if device.closed is None:
            await device.quiet()
            await world.leave(device)
    assert world.gateway.sessions.logins_refused == 2


async def test_a_mac_is_of_one_device_of_one_product(world: World, link: str) -> None:
    """A device that knows its own secret cannot say that it is another one, of whatever product."""
    await register_thief(world)
    for product, identifier in (("lamp", "d1"), ("lamp", ""), ("", "x1"), ("lamp:x1", "d1"), ("lamps", "x1")):
        thief = await world.connect("x1", link)
        right = mac(THIEF_SECRET, thief.nonce, "lamp", "x1")
        await thief.send(**thief.hello(OLD, product=product, device=identifier, mac=right))
        error = await thief.receive("error")
        assert error["code"] in ("unauthorized", "bad_message")
    assert world.gateway.sessions.logins == 1, "that of set_up"


async def test_nonces_differ(world: World, link: str) -> None:
    """Also beyond what the gateway draws from the kernel at a time."""
    nonces = set()
    for _ in range(300):
        device = await Device.connect(world.address, link, "d1")
        assert len(bytes.fromhex(device.nonce)) == 16
        nonces.add(device.nonce)
        await device.aclose()
    assert len(nonces) == 300


@pytest.mark.parametrize("how", ["rotated", "deleted", "registered anew"])
async def test_an_old_secret_is_useless(world: World, link: str, how: str) -> None:
    device = await world.log_in("d1", link)
    secret = ""
    if how == "rotated":
        secret = (await world.service.rotate_secret("lamp", "d1")).secret
    else:
        await world.service.delete_device("lamp", "d1")
    assert await device.wait_closed() == UNAUTHORIZED
    if how == "registered anew":
        secret = (await world.service.register_device("lamp", RegisterDeviceRequest("d1"))).secret
    thief = await world.connect("d1", link)
    await thief.send(**thief.hello(OLD))
    await refused(thief)
    if secret:
        assert secret != SECRET
        back = await world.connect("d1", link)
        back.secret = secret
        await back.log_in(OLD)
        await back.quiet()


# -- another's numbers -----------------------------------------------------------------------------


async def test_numbers_of_another_device_are_useless(world: World, link: str) -> None:
    """Its batch, attempt, transfer, firmware, name and connection: d1 goes on as if nothing were said."""
    batch, device = await begin(world, link, "upgrading", timeout_minutes=5)
    await device.send("fetch", transfer=7, firmware=FIRMWARE, offset=0, length=len(IMAGE), chunk_size=CHUNK)
    first = await device.chunk()
    before = await world.details(batch, "d1")
    await register_thief(world)
    thief = await world.connect("x1", link)
    thief.secret = THIEF_SECRET
    await thief.log_in(OLD)
    posing = {
        "device": "d1",
        "product": "lamp",
        "conn": world.gateway.presence.get(1),
        "connection": world.gateway.presence.get(1),
    }
    about = {"batch": batch, "attempt": 1, **posing}
    for type, fields in (
        ("received", {}),
        ("progress", {"stage": "burning", "percent": 99}),
        ("result", {"outcome": "failed", "reason": "burn_failed"}),
        ("result", {"outcome": "succeeded", "version": NEW}),
    ):
        await thief.ask(type, **about, **fields)
    fetch = {"firmware": FIRMWARE, "offset": 0, "length": len(IMAGE), "chunk_size": CHUNK}
    answer = await thief.ask("fetch", transfer=7, **fetch, **posing)
    assert answer["type"] == "error"
    await thief.ask("stop", transfer=7, **posing)
    await thief.ask("version", version=NEW, **posing)
    await thief.ping()
    assert not thief.chunks
    await world.idle()
    after = await world.details(batch, "d1")
    assert (after.state, after.attempt, after.timeline) == (before.state, before.attempt, before.timeline)
    data = bytearray(first.data)
    while len(data) < len(IMAGE):
        data += (await device.chunk()).data
    assert bytes(data) == IMAGE
    (d1, x1) = await world.store.lookup_devices([("lamp", "d1"), ("lamp", "x1")])
    assert d1 is not None
    assert x1 is not None
    assert (d1.version, x1.version) == (OLD, NEW)


# -- where secrets are seen ------------------------------------------------------------------------

READ = (
    *("/products", "/products/lamp", "/products/lamp/devices", "/products/lamp/devices/d1"),
    *("/webhooks", "/tokens", "/audit", "/overview"),
)


def test_secrets_are_seen_once(tmp_path: Path) -> None:
    """In the answers that give them; in no log, metric, page, other answer or file of the data folder."""
    data = tmp_path / "data"
    secrets = [SECRET]
    seen = []
    with running(data, environment={"OTAGATE_LOG__LEVEL": "debug"}) as gateway, Operator(gateway) as operator:
        operator.create_product()
        operator.register("d1")
        path = "/products/lamp/devices"
        repeated = {"headers": {"idempotency-key": "once"}, "json": {"identifier": "d2"}}
        for _ in range(2):
            secrets.append(operator.call("POST", path, **repeated)["secret"])
        secrets.append(operator.call("POST", f"{path}/d2/secret")["secret"])
        hook = {"url": "http://127.0.0.1:9/hook", "events": ["batch_ended"]}
        secrets.append(operator.call("POST", "/webhooks", 201, json=hook)["secret"])
        trio.run(visit, gateway.devices, secrets[3])
        answers = [operator.get(path) for path in READ]
        assert [answer.status_code for answer in answers] == [200] * len(READ)
        seen += [answer.content for answer in answers]
        seen += [
            httpx.get(f"{gateway.url}{path}").content for path in ("/metrics", "/readyz", "/openapi.json")
        ]
        token = gateway.token
    assert secrets[1] == secrets[2], "the same request once more"
    assert len(set(secrets)) == 4
    seen.append(gateway.log.encode())
    assert b"login_refused" in seen[-1]
    seen += [file.read_bytes() for file in data.rglob("*") if file.is_file()]
    key = (data / KEY_FILE).read_text().strip()
    for text in seen:
        assert not [secret for secret in secrets if secret.encode() in text]
    for file in (data / "store").iterdir():
        for text_or_bytes in (key.encode(), bytes.fromhex(key), token.encode()):
            assert text_or_bytes not in file.read_bytes()
    assert key not in gateway.log


async def visit(address: tuple[str, int], secret: str) -> None:
    """d2 logs in with its secret, and is refused with another; it says its secret where it should not."""
    for given in (secret, SECRET):
        device = await Device.connect(address, "tcp", "d2")
        device.secret = given
        await device.send(**device.hello(OLD))
        await device.receive("welcome" if given == secret else "error")
        await device.aclose()
