"""The console in a real browser on a real gateway: it works, its policy refuses nothing, nothing leaves.

Every `Console` fails its test at close if the browser's console had an error, the policy was breached, or
another host was asked.
"""

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import APIResponse, Browser, Route, expect

from otagate.signing.keys import PrivateKey
from otagate.signing.manifest import Manifest

from .browser import Console, Gateway, wait_for

Open = Callable[..., Console]


@pytest.fixture
def console(browser: Browser, gateway: Gateway) -> Iterator[Open]:
    """Opens consoles, logged in; closes them."""
    opened: list[Console] = []

    def open_one(**how: Any) -> Console:
        one = Console(browser, gateway, **how)
        opened.append(one)
        one.log_in()
        return one

    yield open_one
    for one in opened:
        one.close()


PAGES = [
    "overview",
    "products",
    "devices",
    "devices/register",
    "firmware",
    "firmware/add",
    "batches",
    "batches/new",
]
ADMINISTRATION = ["tokens", "audit", "webhooks"]


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-GB", "zh-CN"])
def test_every_page(console: Open, gateway: Gateway, width: int, scheme: str, locale: str) -> None:
    if not gateway.call("GET", "/firmware")["items"]:
        firmware = gateway.firmware("lamp", "first", "1.1.0")
        gateway.batch(firmware["id"])
    batch = gateway.call("GET", "/batches")["items"][0]["id"]
    shown = console(width=width, scheme=scheme, locale=locale)
    offered = shown.page.locator("nav.nav a").evaluate_all("links => links.map(link => link.hash.slice(2))")
    places = [*PAGES, *(place for place in ADMINISTRATION if place in offered), f"batches/{batch}"]
    for place in places:
        shown.show(place)
        assert shown.overflow() <= 0, place
        assert shown.page.locator("[role=alert]").count() == 0, place
        # a text that is missing shows as its key
        assert not shown.page.get_by_text(r"/^(\w+\.)\w+$/").count(), place


def test_wrong_token(browser: Browser, gateway: Gateway) -> None:
    shown = Console(browser, gateway)
    shown.page.goto(gateway.url)
    shown.page.locator("input[name=token]").fill("wrong")
    shown.page.locator("button[type=submit]").click()
    expect(shown.page.get_by_role("alert")).to_contain_text("not valid")
    shown.close()


def test_batch_that_is_not_there(browser: Browser, gateway: Gateway) -> None:
    """The page says so, tells the way back, and stops asking."""
    shown = Console(browser, gateway)
    shown.log_in()
    shown.show("batches/b999")
    expect(shown.page.get_by_role("alert")).to_have_text("There is no “b999”, or not any more.")
    expect(shown.page.locator(".crumb a")).to_have_text("Batches")
    expect(shown.page.get_by_text("Reconnecting…")).to_have_count(0)
    assert all("404" in fault for fault in shown.faults), shown.faults
    shown.faults.clear()
    shown.close()


def test_register_without_products(browser: Browser, gateway: Gateway) -> None:
    shown = Console(browser, gateway)
    shown.log_in()
    shown.page.route("**/api/v1/products?**", lambda route: route.fulfill(json={"items": [], "next": None}))
    shown.show("devices/register")
    expect(shown.page.get_by_text("There is no product yet")).to_be_visible()
    expect(shown.page.locator("form")).to_have_count(0)
    shown.close()


def test_actions_stay_in_sight(console: Open, gateway: Gateway) -> None:
    """Of a table that is wider than its window, too."""
    gateway.firmware("lamp", "a-name-that-is-rather-long", "12.0.0-of-this-year", description="d" * 100)
    shown = console(width=1000)
    shown.show("firmware")
    button = shown.page.get_by_role("button", name="Delete").first
    box = button.bounding_box()
    assert box is not None
    assert box["x"] + box["width"] <= 1000


def test_log_out_forgets(console: Open) -> None:
    shown = console()
    shown.page.get_by_role("button", name="Log out").click()
    expect(shown.page.locator("input[name=token]")).to_be_visible()
    shown.page.reload()
    expect(shown.page.locator("input[name=token]")).to_be_visible()
    stored = shown.page.evaluate("() => Object.values({...localStorage, ...sessionStorage}).join()")
    assert shown.gateway.token not in stored


def test_roles(browser: Browser, gateway: Gateway) -> None:
    """What a token may not do is not offered."""
    offered = {}
    for role in ("viewer", "operator", "admin"):
        made = gateway.call("POST", "/tokens", json={"name": f"{role} of the console", "role": role})
        shown = Console(browser, gateway)
        shown.log_in(made["token"])
        buttons = []
        for place in ("products", "devices", "firmware", "batches"):
            shown.show(place)
            buttons.append(shown.page.locator(".page-head .actions > *").count())
        offered[role] = (buttons, shown.page.locator(".nav-group").count())
        shown.close()
    assert offered == {
        "viewer": ([0, 0, 0, 0], 0),
        "operator": ([0, 1, 1, 1], 0),
        "admin": ([1, 1, 1, 1], 1),
    }


def test_language_and_theme_are_remembered(console: Open) -> None:
    shown = console()
    shown.page.get_by_label("Language").select_option("zh")
    expect(shown.page.locator("h1")).to_have_text("总览")
    shown.page.get_by_label("主题").select_option("dark")
    assert shown.page.evaluate("() => document.documentElement.dataset.theme") == "dark"
    shown.page.reload()
    expect(shown.page.locator("html")).to_have_attribute("data-theme", "dark")
    expect(shown.page.locator("html")).to_have_attribute("lang", "zh-CN")


def test_product_from_creation_to_deletion(console: Open) -> None:
    shown = console()
    page = shown.page
    shown.show("products")
    page.get_by_role("button", name="Create product").first.click()
    page.get_by_label("Key").fill("not a key")
    page.get_by_label("Name").fill("Heater")
    page.locator("dialog").get_by_role("button", name="Create product").click()
    expect(page.get_by_role("alert")).to_contain_text("A product key is 1-64")
    page.get_by_label("Key").fill("lamp")
    page.locator("dialog").get_by_role("button", name="Create product").click()
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_label("Key").fill("heater")
    page.locator("dialog").get_by_role("button", name="Create product").click()
    row = page.get_by_role("row", name="heater")
    expect(row).to_be_visible()
    row.get_by_role("button", name="Delete").click()
    page.locator("dialog").get_by_role("button", name="Delete").click()
    expect(row).to_have_count(0)


def test_register_a_file(console: Open, gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    file.write_text("identifier,name\nx1,One\nx 2,Two\nx3,Three\n")
    shown = console()
    page = shown.page
    shown.show("devices/register?product=lock")
    page.get_by_role("button", name="From a file").click()
    page.get_by_label("File of devices").set_input_files(file)
    page.get_by_role("button", name="Register", exact=True).click()
    expect(page.get_by_role("heading", name="2 devices registered")).to_be_visible()
    expect(page.get_by_role("row", name="x 2")).to_contain_text("A device identifier is")
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Download the secrets").click()
    lines = Path(downloading.value.path()).read_text().splitlines()
    assert lines[0] == "identifier,secret"
    assert [line.split(",")[0] for line in lines[1:]] == ["x1", "x3"]
    assert len(gateway.call("GET", "/products/lock/devices")["items"]) == 2


def test_one_upgrade_by_hand(console: Open, gateway: Gateway, tmp_path: Path) -> None:
    """Add a firmware, choose devices, start the batch, see it end, look at a timeline, save the CSV."""
    image = tmp_path / "lamp-9.0.bin"
    image.write_bytes(os.urandom(300_000))
    shown = console()
    page = shown.page
    shown.show("firmware/add")
    page.get_by_label("Firmware file").set_input_files(image)
    expect(page.get_by_text(hashlib.md5(image.read_bytes()).hexdigest())).to_be_visible()
    expect(page.get_by_role("alert")).to_contain_text("A file name is")
    page.get_by_role("button", name="Use lamp-9_0.bin").click()
    page.locator("input[name=name]").fill("九号（灯）")
    expect(page.get_by_role("alert")).to_contain_text("A firmware name is")
    page.locator("input[name=name]").fill("九号灯")
    page.locator("input[name=version]").fill("9.0")
    page.get_by_role("button", name="Add firmware").click()
    row = page.get_by_role("row", name="九号灯")
    row.get_by_role("link", name="Upgrade").click()

    page.get_by_label("Retries").fill("0")
    page.get_by_label("Chosen devices").check()
    expect(page.get_by_role("status").filter(has_text="eligible")).to_be_visible()
    page.get_by_role("button", name="Paste or file").click()
    page.get_by_label("Identifiers").fill("d0\nd1 worn-0, ghost\n-bad")
    expect(page.get_by_role("alert")).to_contain_text("-bad")
    page.get_by_role("button", name="Add 4 devices").click()
    page.get_by_role("button", name="Start the upgrade").click()
    expect(page.get_by_role("row", name="ghost")).to_contain_text(
        "No device of this product has that identifier."
    )
    page.get_by_role("button", name="Remove from the selection").click()
    expect(page.get_by_text("3 devices, 879 kB to download")).to_be_visible()
    page.get_by_role("button", name="Start the upgrade").click()

    expect(page.get_by_role("row", name="d0")).to_contain_text("Succeeded")
    expect(page.get_by_text("100% ended")).to_be_visible()
    page.get_by_label("State").select_option("failed")
    expect(page.get_by_role("table").get_by_role("row")).to_have_count(2)
    expect(page.get_by_role("row", name="worn-0")).to_contain_text("Burn failed")
    with page.expect_download() as downloading:
        page.get_by_role("button", name="Export CSV").click()
    saved = Path(downloading.value.path()).read_text().splitlines()
    assert saved[0].startswith("batch,identifier,")
    assert [line.split(",")[1] for line in saved[1:]] == ["worn-0"]
    page.get_by_role("button", name="worn-0").click()
    expect(page.locator("dialog .timeline li")).to_have_count(4)
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)

    shown.show("firmware")
    page.get_by_role("row", name="九号灯").get_by_role("button", name="Delete").click()
    page.locator("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("row", name="九号灯")).to_have_count(0)


def test_signed_firmware(console: Open, gateway: Gateway, tmp_path: Path) -> None:
    """Add a key, require signatures, be refused without one, add a signed firmware, revoke the key."""
    key = PrivateKey.generate()
    image, signature = tmp_path / "safe.bin", tmp_path / "safe.bin.sig"
    data = os.urandom(50_000)
    digests = hashlib.sha256(data).hexdigest(), hashlib.md5(data).hexdigest()
    image.write_bytes(data)
    signature.write_bytes(
        key.sign(Manifest("safe", "safe-2", "2.0", len(data), *digests, 10**10, ("1.0",))).encode()
    )
    gateway.call("POST", "/products", json={"key": "safe", "name": "Safe"})
    shown = console()
    page = shown.page
    shown.show("products")
    page.get_by_role("row", name="Safe").get_by_role("button", name="Signing keys").click()
    dialog = page.locator("dialog")
    dialog.get_by_label("Take only signed firmware").click()
    expect(dialog.get_by_role("alert")).to_contain_text("has no signing key")
    dialog.get_by_label("Public key").fill(key.public.pem())
    dialog.get_by_role("button", name="Add key").click()
    expect(dialog.get_by_role("row", name=key.public.id)).to_be_visible()
    dialog.get_by_label("Take only signed firmware").click()
    dialog.get_by_role("button", name="Close").click()
    expect(page.get_by_role("row", name="Safe")).to_contain_text("Signed only")

    shown.show("firmware/add")
    page.get_by_label("Product").select_option("safe")
    page.get_by_label("Firmware file").set_input_files(image)
    page.locator("input[name=name]").fill("safe-2")
    page.locator("input[name=version]").fill("2.0")
    page.get_by_role("button", name="Add firmware").click()
    expect(page.get_by_role("alert")).to_contain_text("requires signed firmware")
    page.get_by_label("Signature file").set_input_files(signature)
    expect(page.get_by_role("alert")).to_have_count(0)
    page.get_by_role("button", name="Add firmware").click()
    row = page.get_by_role("row", name="safe-2")
    expect(row).to_contain_text(key.public.id[:6])
    row.get_by_role("link", name="Upgrade").click()
    page.get_by_label("Allow rollback").check()
    expect(page.get_by_text(key.public.id, exact=True)).to_be_visible()

    shown.show("products")
    page.get_by_role("row", name="Safe").get_by_role("button", name="Signing keys").click()
    dialog.get_by_role("button", name="Revoke").click()
    page.locator("dialog").last.get_by_role("button", name="Revoke").click()
    expect(dialog.first.get_by_role("button", name="Revoke")).to_have_count(0)


def test_abort(console: Open, gateway: Gateway) -> None:
    gateway.devices("lock", 2, "--silent-delay", "3600", prefix="slow-")
    firmware = gateway.firmware("lock", "slow", "2.0.0")
    batch = gateway.batch(firmware["id"], policy="silent")
    shown = console()
    page = shown.page
    shown.show(f"batches/{batch['id']}")
    row = page.get_by_role("row", name="slow-0")
    expect(row).to_contain_text("Waits for the device to start")
    page.get_by_role("button", name="Abort").click()
    expect(page.locator("dialog")).to_contain_text("2 devices that have not ended fail")
    page.locator("dialog").get_by_role("button", name="Abort").click()
    expect(row).to_contain_text("Task aborted")
    assert gateway.call("GET", f"/batches/{batch['id']}")["status"] == "aborted"


def test_late_answers(console: Open, gateway: Gateway) -> None:
    """An answer that was overtaken, by another one or by an event, does not bring back what was before."""
    gateway.devices("lock", 1, "--silent-delay", "3600", prefix="calm-")
    firmware = gateway.firmware("lock", "calm", "3.0.0")
    batch = gateway.batch(firmware["id"], policy="silent", range="directed", devices=["calm-0"])["id"]
    shown = console()
    page = shown.page
    rows: list[tuple[Route, APIResponse]] = []
    views: list[tuple[Route, APIResponse]] = []
    page.route(f"**/batches/{batch}/devices*", lambda route: rows.append((route, route.fetch())), times=1)
    page.route(f"**/batches/{batch}", lambda route: views.append((route, route.fetch())))
    page.evaluate("batch => { location.hash = `#/batches/${batch}` }", batch)
    wait_for(lambda: page.evaluate("() => true") and rows and views)
    expect(page.get_by_text("Live", exact=True)).to_be_visible()  # else nobody hears of the abort
    row = page.get_by_role("row", name="calm-0")
    gateway.call("POST", f"/batches/{batch}/abort")
    expect(row).to_contain_text("Task aborted")
    expect(page.locator(".facts")).to_contain_text("Aborted")

    [(route, answer)] = rows
    with page.expect_request_finished(lambda request: request == route.request):
        route.fulfill(response=answer)
    page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    assert "Task aborted" in row.inner_text()
    with page.expect_response(f"**/batches/{batch}/devices*"):  # asked for after the view was taken
        for route, answer in views:
            route.fulfill(response=answer)
    assert "Aborted" in page.locator(".facts").inner_text()


def test_keyboard(console: Open) -> None:
    """From the top of the page to a product's deletion and back out, without a pointer."""
    shown = console()
    page = shown.page
    page.evaluate("() => document.activeElement.blur()")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    shown.show("products")
    page.get_by_role("button", name="Create product").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Key")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)


def test_every_control_has_a_name(console: Open) -> None:
    shown = console()
    for place in [*PAGES]:
        shown.show(place)
        unnamed = shown.page.locator("button, a, input, select, textarea").evaluate_all(
            "controls => controls.filter(control => !(control.labels?.length || control.ariaLabel"
            " || control.textContent.trim())).map(control => control.outerHTML)"
        )
        assert unnamed == [], place


def test_gateway_goes_and_comes_back(console: Open, gateway: Gateway) -> None:
    """Meanwhile the console says so; afterwards it goes on by itself, or asks who is there."""
    shown = console()
    state = shown.page.locator(".side-foot .badge")
    expect(state).to_have_text(re.compile("Live|Updating"))
    gateway.stop()
    expect(state).to_have_text("Reconnecting…")
    gateway.start()
    expect(shown.page.locator(".badge.live, .badge.polling, input[name=token]").first).to_be_visible()
