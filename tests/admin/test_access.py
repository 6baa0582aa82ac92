"""Tokens, roles, sessions and guessing, through the surface and the real service."""

import hashlib
import logging
from typing import Any

import httpx
import pytest
import trio

from otagate import limits
from otagate.admin.operations import Operation
from otagate.admin.routes import OPERATIONS
from otagate.gateway.access import Access, Role, hash_of
from otagate.store.interface import AddToken
from otagate.store.operators import Token

from .operators import ROLES, V1, Surface, error_of, surface
from .test_api import concrete

DAY_S = 86_400

# -- who may do what ------------------------------------------------------------------------------------

#: The least role of each operation that does more than read what everybody may read.
WRITES = {
    "create_product": "admin",
    "delete_product": "admin",
    "update_product": "admin",
    "add_signing_key": "admin",
    "revoke_signing_key": "admin",
    "register": "operator",
    "rename_device": "operator",
    "delete_device": "operator",
    "rotate_secret": "operator",
    "upload": "operator",
    "delete_firmware": "operator",
    "create_batch": "operator",
    "abort_batch": "operator",
    "log_out": "viewer",
    "list_tokens": "admin",
    "create_token": "admin",
    "revoke_token": "admin",
    "list_audit": "admin",
    "verify_audit": "admin",
    "list_webhooks": "admin",
    "create_webhook": "admin",
    "delete_webhook": "admin",
    "test_webhook": "admin",
}


def least_role(operation: Operation) -> str:
    default = "viewer" if operation.method == "GET" else "unknown"
    return WRITES.get(operation.handler.__name__, default)


GUARDED = [operation for operation in OPERATIONS if not operation.public]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("operation", GUARDED, ids=lambda o: f"{o.method} {o.path}")
async def test_role(autojump_clock: object, operation: Operation, role: str) -> None:
    async with surface() as gateway:
        client = gateway.of(role)
        path = concrete(operation.path)
        if operation.path.endswith("/events"):
            path += "?batch=none"  # the stream of what is there does not end
        response = await client.request(operation.method, path)
        may = ROLES.index(role) >= ROLES.index(least_role(operation))
        if may:
            assert response.status_code != 403, response.text
        else:
            assert error_of(response) == (403, "forbidden")
            assert least_role(operation) in response.json()["error"]["message"]


def test_roles_of_the_table() -> None:
    for operation in GUARDED:
        assert operation.role.label == least_role(operation), operation.path
        assert {401, 403, 429} <= set(operation.error_statuses)


# -- tokens ---------------------------------------------------------------------------------------------


async def test_a_token_is_made_shown_once_used_and_revoked(autojump_clock: object) -> None:
    async with surface() as gateway:
        admin = gateway.of("admin")
        made = (await admin.post(f"{V1}/tokens", json={"name": "ci", "role": "operator"})).json()
        text = made.pop("token")
        assert len(text) == 43
        client = gateway.client(text)
        assert (await client.get(f"{V1}/products")).status_code == 200
        listed = (await admin.get(f"{V1}/tokens")).json()["items"]
        assert listed[-1] == made | {"last_used_at": listed[-1]["last_used_at"]}
        assert listed[-1]["last_used_at"] is not None
        response = await admin.delete(f"{V1}/tokens/{made['id']}")
        assert (response.status_code, response.content) == (204, b"")
        assert error_of(await client.get(f"{V1}/products")) == (401, "unauthorized")
        assert (await admin.get(f"{V1}/tokens")).json()["items"][-1]["revoked_at"] is not None
        assert error_of(await admin.delete(f"{V1}/tokens/{made['id']}")) == (409, "conflict")
        assert error_of(await admin.delete(f"{V1}/tokens/t99")) == (404, "not_found")


async def test_the_text_of_a_token_is_nowhere(autojump_clock: object) -> None:
    async with surface() as gateway:
        text = gateway.tokens["admin"]
        store = gateway.harness.store
        with store.view() as view:
            from otagate.store import tables

            values = [key + value for name in tables.TABLES for key, value in tables.scan(view, name, b"")]
        assert any(hash_of(text) in value for value in values)
        assert not any(text.encode() in value for value in values)


async def test_a_token_expires(autojump_clock: object) -> None:
    async with surface() as gateway:
        body = {"name": "short", "role": "viewer", "expires_in_days": 1}
        made = (await gateway.of("admin").post(f"{V1}/tokens", json=body)).json()
        client = gateway.client(made["token"])
        await gateway.harness.jump(DAY_S - 60)
        assert (await client.get(f"{V1}/products")).status_code == 200
        await trio.sleep(61)
        assert error_of(await client.get(f"{V1}/products")) == (401, "unauthorized")
        again = await gateway.of("admin").post(f"{V1}/tokens", json=body)  # its name is free again
        assert again.status_code == 201


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "", "role": "viewer"}, "name"),
        ({"name": "a\nb", "role": "viewer"}, "name"),
        ({"name": "n" * 101, "role": "viewer"}, "name"),
        ({"name": "n", "role": "root"}, "role"),
        ({"name": "n", "role": "viewer", "expires_in_days": 0}, "expires_in_days"),
        ({"name": "n", "role": "viewer", "expires_in_days": 4000}, "expires_in_days"),
    ],
)
async def test_bad_tokens(autojump_clock: object, body: dict[str, Any], field: str) -> None:
    async with surface() as gateway:
        response = await gateway.of("admin").post(f"{V1}/tokens", json=body)
        assert error_of(response) == (422, "invalid")
        assert response.json()["error"]["field"] == field


async def test_the_name_of_a_good_token_is_taken(autojump_clock: object) -> None:
    async with surface() as gateway:
        response = await gateway.of("admin").post(f"{V1}/tokens", json={"name": "viewer", "role": "viewer"})
        assert error_of(response) == (409, "conflict")


@pytest.mark.parametrize("name", ["", " admin", "admin\u3000", "a\nb", "nimda\u202e", "x" * 101])
async def test_a_name_that_could_pass_for_another(autojump_clock: object, name: str) -> None:
    async with surface() as gateway:
        response = await gateway.of("admin").post(f"{V1}/tokens", json={"name": name, "role": "viewer"})
        assert error_of(response) == (422, "invalid")
        assert response.json()["error"]["field"] == "name"


@pytest.mark.parametrize("name", ["gateway", "otagate key"])
async def test_nobody_is_named_as_the_gateway(autojump_clock: object, name: str) -> None:
    """In the audit log these are its own."""
    async with surface() as gateway:
        response = await gateway.of("admin").post(f"{V1}/tokens", json={"name": name, "role": "viewer"})
        assert error_of(response) == (409, "conflict")


async def test_the_last_admin_cannot_be_revoked(autojump_clock: object) -> None:
    async with surface() as gateway:
        admin = gateway.of("admin")
        assert error_of(await admin.delete(f"{V1}/tokens/t3")) == (409, "conflict")
        assert (await admin.post(f"{V1}/tokens", json={"name": "b", "role": "admin"})).status_code == 201
        assert (await admin.delete(f"{V1}/tokens/t3")).status_code == 204


async def test_tokens_live_on_after_a_restart(autojump_clock: object) -> None:
    async with surface() as gateway:
        store, tokens = gateway.harness.store, gateway.tokens
        await gateway.of("admin").delete(f"{V1}/tokens/t1")
        assert (await gateway.of("operator").get(f"{V1}/products")).status_code == 200
        await trio.sleep(2 * limits.token_used_flush_ms / 1000)
    async with surface(store) as gateway:
        gateway.tokens = tokens
        assert (await gateway.of("viewer").get(f"{V1}/products")).status_code == 401
        listed = (await gateway.of("admin").get(f"{V1}/tokens")).json()["items"]
        assert listed[1]["last_used_at"] is not None


async def test_a_stop_writes_when_tokens_were_last_used(autojump_clock: object) -> None:
    async with surface() as gateway:
        await trio.sleep(5)  # just after the first flush
        await gateway.of("operator").get(f"{V1}/products")
        await gateway.harness.gateway.drain()
        assert (await gateway.harness.store.tokens())[1].last_used_at_ms is not None


async def test_use_is_not_a_write_each(autojump_clock: object) -> None:
    async with surface() as gateway:
        before = gateway.harness.gateway.journal.commits
        for _ in range(100):
            await gateway.of("viewer").get(f"{V1}/products")
        assert gateway.harness.gateway.journal.commits == before
        await trio.sleep(2 * limits.token_used_flush_ms / 1000)
        assert gateway.harness.gateway.journal.commits <= before + 2


async def test_a_revocation_holds_although_nobody_waits_for_it(autojump_clock: object) -> None:
    async with surface() as gateway:
        gateway.harness.store.hold()
        with trio.move_on_after(1):
            await gateway.of("admin").delete(f"{V1}/tokens/t1")
        assert (await gateway.of("viewer").get(f"{V1}/products")).status_code == 200
        gateway.harness.store.release()
        await gateway.harness.rest()
        assert (await gateway.of("viewer").get(f"{V1}/products")).status_code == 401


def test_tokens_are_bounded() -> None:
    from otagate.store.changes import apply
    from otagate.store.memory import MemoryStore

    transaction = MemoryStore()._transaction
    adds = [AddToken(str(n), "viewer", n.to_bytes(32), 1, 10 + n) for n in range(limits.tokens_max + 1)]
    *made, refused = apply(transaction, adds)
    assert all(isinstance(token, Token) for token in made)
    assert "the most" in refused.message  # type: ignore[union-attr]
    (token,) = apply(transaction, [AddToken("new", "viewer", b"n" * 32, 12)])  # two have expired
    assert isinstance(token, Token)


# -- sessions -------------------------------------------------------------------------------------------


async def log_in(gateway: Surface, role: str = "operator") -> tuple[httpx.AsyncClient, dict[str, Any]]:
    """A browser that is logged in, and its session."""
    browser = gateway.client()
    response = await browser.post(f"{V1}/session", json={"token": gateway.tokens[role]})
    assert response.status_code == 200, response.text
    return browser, response.json()


async def test_a_session(autojump_clock: object) -> None:
    async with surface() as gateway:
        browser = gateway.client()
        response = await browser.post(f"{V1}/session", json={"token": gateway.tokens["operator"]})
        cookie = response.headers["set-cookie"]
        assert cookie.startswith("otagate_session=")
        assert {"HttpOnly", "SameSite=Strict", "Path=/"} == set(cookie.split("; ")[1:])
        session = response.json()
        assert (session["name"], session["role"]) == ("operator", "operator")
        assert (await browser.get(f"{V1}/session")).json() == session
        assert (await browser.get(f"{V1}/products")).status_code == 200
        body = {"firmware": "f1"}
        assert error_of(await browser.post(f"{V1}/batches", json=body)) == (403, "csrf")
        wrong = {"x-csrf-token": session["csrf"][:-1]}
        assert error_of(await browser.post(f"{V1}/batches", json=body, headers=wrong)) == (403, "csrf")
        right = {"x-csrf-token": session["csrf"]}
        assert error_of(await browser.post(f"{V1}/batches", json=body, headers=right)) == (422, "invalid")
        assert error_of(await browser.delete(f"{V1}/session")) == (403, "csrf")
        assert (await browser.delete(f"{V1}/session", headers=right)).status_code == 204
        assert not browser.cookies
        browser.cookies.set("otagate_session", cookie.partition("=")[2].partition(";")[0])
        assert error_of(await browser.get(f"{V1}/session")) == (401, "unauthorized")


async def test_the_cookie_is_secure_on_tls(autojump_clock: object) -> None:
    async with surface() as gateway:
        transport = httpx.ASGITransport(gateway.app)
        async with httpx.AsyncClient(transport=transport, base_url="https://gateway") as browser:
            response = await browser.post(f"{V1}/session", json={"token": gateway.tokens["viewer"]})
        assert response.headers["set-cookie"].startswith("__Host-otagate_session=")
        assert response.headers["set-cookie"].endswith("; Secure")
        body, headers = {"token": gateway.tokens["viewer"]}, {"origin": "https://gateway"}  # behind a proxy
        response = await gateway.client().post(f"{V1}/session", json=body, headers=headers)
        assert response.headers["set-cookie"].endswith("; Secure")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://gateway", 200),
        ("http://GATEWAY", 200),
        ("http://gateway:81", 403),
        ("http://evil.example", 403),
        ("http://gateway.evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_origin(autojump_clock: object, origin: str, status: int) -> None:
    async with surface() as gateway:
        browser, session = await log_in(gateway, "admin")
        headers = {"origin": origin, "x-csrf-token": session["csrf"]}
        assert (await browser.get(f"{V1}/products", headers=headers)).status_code == status
        body = {"token": gateway.tokens["viewer"]}
        response = await browser.post(f"{V1}/session", json=body, headers=headers)
        assert response.status_code == status
        bearer = {"origin": origin, "authorization": f"Bearer {gateway.tokens['viewer']}"}
        assert (await browser.get(f"{V1}/products", headers=bearer)).status_code == 200


async def test_a_wrong_bearer_does_not_fall_back_to_the_cookie(autojump_clock: object) -> None:
    async with surface() as gateway:
        browser, _ = await log_in(gateway)
        for header in ("Bearer wrong", "Bearer", "Basic x"):
            response = await browser.get(f"{V1}/products", headers={"authorization": header})
            assert error_of(response) == (401, "unauthorized")


async def test_roles_hold_for_sessions(autojump_clock: object) -> None:
    async with surface() as gateway:
        browser, session = await log_in(gateway, "viewer")
        headers = {"x-csrf-token": session["csrf"]}
        assert error_of(await browser.post(f"{V1}/batches", json={}, headers=headers)) == (403, "forbidden")


async def test_a_session_ends_when_idle(autojump_clock: object) -> None:
    async with surface() as gateway:
        browser, _ = await log_in(gateway)
        for _ in range(3):
            await gateway.harness.jump(limits.console_session_idle_ms / 1000 - 1)
            assert (await browser.get(f"{V1}/products")).status_code == 200
        await gateway.harness.jump(limits.console_session_idle_ms / 1000 + 1)
        assert error_of(await browser.get(f"{V1}/products")) == (401, "unauthorized")


async def test_a_session_ends_although_busy(autojump_clock: object) -> None:
    async with surface() as gateway:
        browser, _ = await log_in(gateway)
        step_s = limits.console_session_idle_ms / 2000
        steps = round(limits.console_session_ms_max / 1000 / step_s)
        for _ in range(steps - 1):
            await gateway.harness.jump(step_s)
            assert (await browser.get(f"{V1}/products")).status_code == 200
        await trio.sleep(step_s + 1)
        assert error_of(await browser.get(f"{V1}/products")) == (401, "unauthorized")


async def test_a_session_ends_with_its_token(autojump_clock: object) -> None:
    async with surface() as gateway:
        browser, _ = await log_in(gateway, "viewer")
        other, _ = await log_in(gateway, "operator")
        await gateway.of("admin").delete(f"{V1}/tokens/t1")
        assert error_of(await browser.get(f"{V1}/products")) == (401, "unauthorized")
        assert (await other.get(f"{V1}/products")).status_code == 200
        body = {"name": "short", "role": "viewer", "expires_in_days": 1}
        made = (await gateway.of("admin").post(f"{V1}/tokens", json=body)).json()
        await gateway.harness.jump(DAY_S - 60)
        browser = gateway.client()
        session = (await browser.post(f"{V1}/session", json={"token": made["token"]})).json()
        assert session["expires_at"] == made["expires_at"]
        await trio.sleep(61)
        assert error_of(await browser.get(f"{V1}/products")) == (401, "unauthorized")


async def test_a_restart_logs_out(autojump_clock: object) -> None:
    async with surface() as gateway:
        browser, _ = await log_in(gateway)
        store = gateway.harness.store
        cookie = browser.cookies["otagate_session"]
    async with surface(store) as gateway:
        browser = gateway.client()
        browser.cookies.set("otagate_session", cookie)
        assert error_of(await browser.get(f"{V1}/products")) == (401, "unauthorized")


async def test_sessions_need_a_cookie_of_ours(autojump_clock: object) -> None:
    async with surface() as gateway:
        assert error_of(await gateway.of("admin").get(f"{V1}/session")) == (401, "unauthorized")
        assert error_of(await gateway.of("admin").delete(f"{V1}/session")) == (401, "unauthorized")
        for cookie in ("otagate_session=wrong", "otagate_session=", "not_otagate_session=x", "a;b=;,"):
            response = await gateway.client().get(f"{V1}/products", headers={"cookie": cookie})
            assert error_of(response) == (401, "unauthorized")


def console_tokens() -> list[str]:
    """As many as it takes to fill the table of sessions; the first is "good"."""
    count = limits.console_sessions_max // limits.console_sessions_per_token_max + 1
    return ["good", *(f"good{number}" for number in range(1, count))]


def access(now_ms: Any = lambda: 0) -> Access:
    made = Access(now_ms)
    tokens = console_tokens()
    made.load(Token(number, text, "viewer", hash_of(text), 0) for number, text in enumerate(tokens, 1))
    return made


def test_sessions_are_bounded() -> None:
    made = access()
    *full, last = console_tokens()
    share = range(limits.console_sessions_per_token_max)
    cookies = [made.open_session(token, "::1")[0] for token in full for _ in share]
    assert len(cookies) == limits.console_sessions_max
    made.session(cookies[0])
    made.open_session(last, "::1")
    made.session(cookies[0])
    with pytest.raises(Exception, match="over"):
        made.session(cookies[1])


def test_one_token_logs_no_other_out() -> None:
    made = access()
    other, _ = made.open_session("good1", "::1")
    mine = [made.open_session("good", "::1")[0] for _ in range(limits.console_sessions_max)]
    made.session(other)
    made.session(mine[-1])
    with pytest.raises(Exception, match="over"):
        made.session(mine[0])


# -- guessing -------------------------------------------------------------------------------------------


async def test_guessing_is_slowed_and_good_tokens_are_not(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with surface() as gateway:
        guesser = gateway.client("wrong")
        for _ in range(limits.wrong_tokens_free):
            assert error_of(await guesser.get(f"{V1}/products")) == (401, "unauthorized")
        response = await guesser.get(f"{V1}/products")
        assert error_of(response) == (429, "too_many_attempts")
        assert response.headers["retry-after"] == "1"
        login = await guesser.post(f"{V1}/session", json={"token": "wrong"})
        assert error_of(login) == (429, "too_many_attempts")
        assert login.headers["retry-after"] == "1"
        assert (await gateway.of("viewer").get(f"{V1}/products")).status_code == 200
        elsewhere = gateway.client("wrong", address="192.0.2.2")
        assert error_of(await elsewhere.get(f"{V1}/products")) == (401, "unauthorized")
        waits = []
        for _ in range(8):
            wait_s = int((await guesser.get(f"{V1}/products")).headers["retry-after"])
            waits.append(wait_s)
            await trio.sleep(wait_s)
            assert error_of(await guesser.get(f"{V1}/products")) == (401, "unauthorized")
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
        await trio.sleep(20 * limits.wrong_token_forget_ms / 1000)
        for _ in range(limits.wrong_tokens_free):
            assert error_of(await guesser.get(f"{V1}/products")) == (401, "unauthorized")
        assert error_of(await guesser.get(f"{V1}/products")) == (429, "too_many_attempts")
    assert "token_refused" in caplog.text
    assert await _audited_actions(gateway) == {"token.create"}


async def _audited_actions(gateway: Surface) -> set[str]:
    page = await gateway.harness.store.list_audit(limit=100)
    return {entry.action for entry in page.entries}


async def test_a_request_without_token_is_no_guess(autojump_clock: object) -> None:
    async with surface() as gateway:
        for _ in range(10):
            assert error_of(await gateway.client().get(f"{V1}/products")) == (401, "unauthorized")


def test_a_network_of_ipv6_is_one_place_and_the_table_is_bounded() -> None:
    made = access()
    for host in range(limits.wrong_tokens_free):
        with pytest.raises(Exception, match="not valid"):
            made.authenticate("bad", f"2001:db8::{host:x}")
    with pytest.raises(Exception, match="Too many"):
        made.authenticate("bad", "2001:db8::ffff")
    with pytest.raises(Exception, match="not valid"):
        made.authenticate("bad", "2001:db8:0:1::1")
    for number in range(limits.wrong_token_addresses_max + 10):
        with pytest.raises(Exception, match="not valid"):
            made.authenticate("bad", f"10.0.{number >> 8}.{number & 255}")
    assert len(made._guesses) == limits.wrong_token_addresses_max


def test_roles_are_ordered() -> None:
    assert [role.label for role in sorted(Role)] == list(ROLES)


def test_the_hash_is_of_the_text() -> None:
    assert hash_of("abc") == hashlib.sha256(b"abc").digest()
