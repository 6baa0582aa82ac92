"""What devices, other operators and links say of themselves is text to the console, wherever it stands."""

import threading
from typing import Any
from urllib.parse import quote

import pytest
import trio
from playwright.sync_api import Browser, expect

from tests.end_to_end.device import SECRET, Device

from .browser import Console, Gateway, wait_for

SCRIPT = "<img src=x onerror=window.taken=1><script>window.taken=1</script>"
PRODUCT, DEVICE = "evil", "d1"


def fail_in(gateway: Gateway, words: str) -> None:
    """A device that reports this as its version, and then as why its upgrade has failed."""

    async def live() -> None:
        device = await Device.connect(("127.0.0.1", gateway.device_port), "tcp", DEVICE, PRODUCT)
        await device.log_in(words)
        upgrade = await device.receive("upgrade")
        how = {"outcome": "failed", "reason": "other", "detail": words}
        assert (await device.ask("result", batch=upgrade["batch"], attempt=upgrade["attempt"], **how))[
            "type"
        ] == "ack"
        await device.aclose()

    trio.run(live)


@pytest.fixture(scope="module")
def evil(gateway: Gateway) -> str:
    """A product, device, firmware, token and batch whose every word is markup; the batch."""
    gateway.call("POST", "/products", json={"key": PRODUCT, "name": SCRIPT})
    names = {"identifier": DEVICE, "name": SCRIPT, "secret": SECRET}
    gateway.call("POST", f"/products/{PRODUCT}/devices", json=names)
    gateway.call("POST", "/tokens", json={"name": SCRIPT, "role": "viewer"})
    firmware = gateway.firmware(PRODUCT, "evil-2", "2", description=SCRIPT)
    device = threading.Thread(target=fail_in, args=(gateway, SCRIPT))
    device.start()
    of_it = f"/products/{PRODUCT}/devices/{DEVICE}"
    wait_for(lambda: gateway.call("GET", of_it)["active"])
    batch: str = gateway.batch(firmware["id"])["id"]
    device.join()
    assert gateway.call("GET", f"/batches/{batch}/devices/{DEVICE}")["detail"] == SCRIPT
    return batch


def is_taken(console: Console) -> Any:
    return console.page.evaluate("() => window.taken ?? null")


def test_words_are_text(browser: Browser, gateway: Gateway, evil: str) -> None:
    """The policy would stop a script; that there was one to stop would be a fault of the page."""
    console = Console(browser, gateway)
    console.log_in()
    for place in (
        "products",
        f"devices?product={PRODUCT}",
        f"firmware?product={PRODUCT}",
        f"batches/{evil}",
        "tokens",
        "audit",
        f"devices?product={PRODUCT}&q={quote(SCRIPT)}",
    ):
        console.show(place)
        expect(console.page.get_by_text("onerror").first).to_be_attached()
        assert is_taken(console) is None, place
    console.show(f"batches/{evil}")
    console.page.get_by_role("button", name=DEVICE).click()
    expect(console.page.get_by_role("dialog")).to_contain_text(SCRIPT)
    assert is_taken(console) is None
    console.close()


@pytest.mark.parametrize(
    "place", ["%", "batches/%ff", f"nowhere/{SCRIPT}", "overview?q=%", "%00", "__proto__"]
)
def test_addresses_are_text(browser: Browser, gateway: Gateway, place: str) -> None:
    """A link from a mail may be anything; the way to the pages stays."""
    console = Console(browser, gateway)
    console.log_in()
    console.page.goto(f"{gateway.url}#/{place}")
    console.page.reload()
    expect(console.page.locator("nav.nav a").first).to_be_visible()
    assert is_taken(console) is None
    # what is asked for under such a name is not there
    console.faults = [fault for fault in console.faults if "status of 404" not in fault]
    console.close()
