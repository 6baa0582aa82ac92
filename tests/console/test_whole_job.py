"""The whole job of an operator by clicking, in both languages: from the first login to the last.

Every text is asked of the page itself by its key, so a control that shows another text, or a key that was
forgotten, is not found; what a rule says is also held to be in the language shown.
"""

import csv
import json
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from .browser import Console, Gateway, wait_for

DEVICES = 4
HAN = re.compile("[\u4e00-\u9fff]")
# Fields of the form for firmware: what breaks the rule of each, the rule's name, and what keeps it.
FIELDS = [
    ("file_name", "lamp 2.bin", "file_name", "lamp-2.bin"),
    ("name", "-灯", "firmware_name", "灯（二）号"),
    ("version", "2/0", "firmware_version", "2.0.0"),
    ("description", "x" * 101, "firmware_description", "Brighter\nat dusk"),
]
ACTIONS = [
    *("product.create", "device.register_many", "firmware.add", "batch.create", "firmware.add"),
    *("batch.create", "batch.abort", "firmware.delete", "token.create", "webhook.create", "webhook.delete"),
]


class Operator:
    """Somebody who knows the console's texts in the language that it shows, and clicks."""

    def __init__(self, console: Console, language: str) -> None:
        self.console = console
        self.page: Page = console.page
        self.language = language

    def text(self, key: str, **parameters: object) -> str:
        """The text of a key, from the console's own dictionaries."""
        found = self.page.evaluate(
            "([key, parameters]) => import(new URL('core/i18n.js', document.querySelector('script').src))"
            ".then(({ t }) => t(key, parameters))",
            [key, parameters],
        )
        assert isinstance(found, str)
        assert found != key
        return found

    def go(self, entry: str) -> None:
        """To a page, by the navigation."""
        self.page.locator("nav.nav").get_by_role("link", name=self.text(f"nav.{entry}"), exact=True).click()
        expect(self.page.locator("h1")).to_have_text(self.text(f"nav.{entry}"))

    def click(self, key: str, place: Locator | None = None) -> None:
        """A button or a link by its text, in a part of the page or anywhere."""
        text = self.text(key)
        place = place or self.page.locator("body")
        button = place.get_by_role("button", name=text, exact=True)
        button.or_(place.get_by_role("link", name=text, exact=True)).first.click()

    @property
    def dialog(self) -> Locator:
        """The one that is open."""
        return self.page.locator("dialog")

    def confirm(self, key: str) -> None:
        """Answer a question with yes, and see it go."""
        self.click(key, self.dialog)
        expect(self.dialog).to_have_count(0)

    def fill(self, name: str, value: str) -> None:
        """A field by its name, in the dialog or the form of the page."""
        self.page.locator(f"[name={name}]").fill(value)

    def row(self, text: str) -> Locator:
        """The row of a list that has this text."""
        return self.page.locator("tbody tr").filter(has_text=text)

    def refused(self, name: str, rule: str) -> None:
        """The field shows that rule, in the language shown, and says so to a screen reader."""
        text = self.text(f"rule.{rule}")
        assert bool(HAN.search(text)) == (self.language == "zh")
        field = self.page.locator(f".field:has([name={name}])")
        expect(field.get_by_role("alert")).to_have_text(text)
        expect(field.locator(f"[name={name}]")).to_have_attribute("aria-invalid", "true")

    def saved(self, click: Callable[[], None]) -> str:
        """The text of the file that a click saves."""
        with self.page.expect_download() as downloading:
            click()
        return Path(downloading.value.path()).read_text(encoding="utf-8")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway as it is after its first start."""
    gateway = Gateway(tmp_path)
    try:
        yield gateway
    finally:
        gateway.close()


@pytest.mark.parametrize(("language", "locale"), [("en", "en-GB"), ("zh", "zh-CN")])
def test_whole_job(browser: Browser, fresh: Gateway, tmp_path: Path, language: str, locale: str) -> None:
    console = Console(browser, fresh, locale=locale)
    operator = Operator(console, language)
    log_in(operator)
    add_product(operator)
    fresh.simulate("lamp", register(operator, tmp_path), "--silent-delay", "3600")
    wait_for(lambda: len(fresh.online("lamp")) == DEVICES)
    add_firmware(operator, tmp_path)
    upgrade_all(operator)
    abort_some(operator)
    create_token(operator)
    hook_and_unhook(operator)
    look_at_the_audit_log(operator)
    operator.click("session.log_out")
    expect(operator.page.locator("input[name=token]")).to_be_visible()
    console.close()


def log_in(operator: Operator) -> None:
    """A wrong token is refused at its field; the first start's own is good."""
    page = operator.page
    page.goto(operator.console.gateway.url)
    operator.fill("token", "wrong")
    operator.click("login.enter")
    expect(page.get_by_role("alert")).to_have_text(operator.text("refusal.token"))
    operator.fill("token", operator.console.gateway.token)
    operator.click("login.enter")
    expect(page.locator("h1")).to_have_text(operator.text("nav.overview"))
    expect(page.locator(".side-foot .badge")).to_have_text(operator.text("feed.live"))


def add_product(operator: Operator) -> None:
    operator.go("products")
    operator.click("product.create")
    operator.fill("key", "street lamp")
    operator.click("product.create", operator.dialog)
    operator.refused("key", "product_key")
    operator.fill("key", "lamp")
    operator.fill("name", "路灯 Lamp")
    operator.confirm("product.create")
    expect(operator.row("路灯 Lamp")).to_be_visible()


def register(operator: Operator, folder: Path) -> Path:
    """From a CSV of which one line is bad; the file of their secrets."""
    file = folder / "devices.csv"
    lines = [f"lamp-{number},Hall {number}" for number in range(DEVICES)]
    file.write_text("\n".join(["identifier,name", *lines, "lamp 9,Bad"]) + "\n")
    operator.go("devices")
    operator.click("device.register")
    operator.click("register.many")
    operator.page.locator("input[type=file]").set_input_files(file)
    operator.click("register.start")
    expect(operator.page.get_by_text(operator.text("register.registered", count=DEVICES))).to_be_visible()
    expect(operator.row("lamp 9")).to_contain_text(operator.text("rule.identifier"))
    secrets = folder / "secrets.csv"
    secrets.write_text(operator.saved(partial(operator.click, "register.download")))
    return secrets


def add_firmware(operator: Operator, folder: Path) -> None:
    """Each rule of the form broken once: its message shows at its field, and goes when it is kept."""
    page = operator.page
    empty, image = folder / "lamp-2.bin", folder / "lamp 2.bin"
    empty.write_bytes(b"")
    image.write_bytes(os.urandom(200_000))
    operator.go("firmware")
    operator.click("firmware.add")
    operator.click("firmware.add", page.locator("form"))
    drop = page.locator(".drop").first
    expect(drop.get_by_role("alert")).to_have_text(operator.text("rule.file"))
    page.locator("input[type=file]").first.set_input_files(empty)
    expect(drop.get_by_role("alert")).to_have_text(operator.text("rule.size"))
    page.locator("input[type=file]").first.set_input_files(image)
    expect(drop.get_by_role("alert")).to_have_count(0)
    for name, bad, rule, _ in FIELDS:
        operator.fill(name, bad)
        operator.refused(name, rule)
    for name, _, _, good in FIELDS:
        operator.fill(name, good)
        expect(page.locator(f".field:has([name={name}])").get_by_role("alert")).to_have_count(0)
    operator.click("firmware.add", page.locator("form"))
    expect(operator.row("灯（二）号")).to_be_visible()


def upgrade_all(operator: Operator) -> None:
    """Every device: it is watched until it has ended, in the same document, and exported."""
    page = operator.page
    operator.click("firmware.upgrade", operator.row("灯（二）号"))
    for name, bad in (("validity_days", "8"), ("timeout_minutes", "0"), ("retries", "6")):
        operator.fill(name, bad)
        operator.refused(name, name)
    operator.fill("retry_interval_minutes", "4321")
    operator.refused("retry_interval_minutes", "retry_interval_minutes")
    for name, good in (("validity_days", "1"), ("timeout_minutes", "10"), ("retries", "0")):
        operator.fill(name, good)
    page.evaluate("() => { window.sameDocument = true }")
    operator.click("batch.begin")
    expect(page.locator(".facts, dl").first).to_contain_text(operator.text("state.completed"))
    for number in range(DEVICES):
        expect(operator.row(f"lamp-{number}")).to_contain_text(operator.text("state.succeeded"))
    assert page.evaluate("() => window.sameDocument")
    rows = list(csv.DictReader(operator.saved(partial(operator.click, "batch.export")).splitlines()))
    assert [(row["identifier"], row["state"], row["version"]) for row in rows] == [
        (f"lamp-{number}", "succeeded", "2.0.0") for number in range(DEVICES)
    ]


def abort_some(operator: Operator) -> None:
    """Two devices of which each chooses when; their firmware cannot be deleted before the end."""
    page = operator.page
    operator.console.gateway.firmware("lamp", "third", "3.0.0")
    operator.go("firmware")
    operator.click("firmware.upgrade", operator.row("third"))
    page.locator("input[value=silent]").check()
    page.locator("input[value=directed]").check()
    for number in (0, 1):
        own = operator.text("selection.pick_one", identifier=f"lamp-{number}")
        page.get_by_role("checkbox", name=own).check()
    operator.click("batch.begin")
    chosen = operator.row("lamp-0")
    expect(chosen).to_contain_text(operator.text("waiting.the_device_to_start"))
    batch = page.url.rpartition("/")[2]
    operator.go("firmware")
    operator.click("action.delete", operator.row("third"))
    expect(operator.dialog).to_contain_text(operator.text("firmware.delete_rule"))
    operator.click("action.delete", operator.dialog)
    expect(operator.dialog.get_by_role("alert")).to_have_text(
        operator.text("refusal.firmware_in_use", batch=batch)
    )
    operator.confirm("action.cancel")
    operator.go("batches")
    row = page.locator("tbody tr").first
    operator.click("batch.abort", row)
    expect(operator.dialog).to_contain_text(operator.text("batch.abort_rule", count=2))
    operator.confirm("batch.abort")
    expect(row).to_contain_text(operator.text("state.aborted"))
    operator.click("batch.view", row)
    expect(chosen).to_contain_text(operator.text("remark.task_aborted"))
    operator.go("firmware")
    operator.click("action.delete", operator.row("third"))
    operator.confirm("action.delete")
    expect(operator.row("third")).to_have_count(0)


def create_token(operator: Operator) -> None:
    """It is shown once, and works."""
    operator.go("tokens")
    operator.click("token.create")
    operator.click("token.create", operator.dialog)
    operator.refused("name", "token_name")
    operator.fill("name", "值班 duty")
    operator.fill("expires_in_days", "3651")
    operator.refused("expires_in_days", "expires_in_days")
    operator.fill("expires_in_days", "30")
    operator.page.locator("input[value=viewer]").check()
    operator.click("token.create", operator.dialog)
    token = operator.dialog.locator(".secret code").inner_text()
    operator.confirm("action.close")
    expect(operator.row("值班 duty")).to_contain_text(operator.text("role.viewer"))
    seen = operator.console.gateway.client.get("/products", headers={"authorization": f"Bearer {token}"})
    assert seen.status_code == 200


def hook_and_unhook(operator: Operator) -> None:
    operator.go("webhooks")
    operator.click("webhook.create")
    operator.fill("url", "ftp://127.0.0.1/hook")
    operator.click("webhook.create", operator.dialog)
    operator.refused("url", "webhook_url")
    operator.fill("url", "http://127.0.0.1:9/hook")
    operator.click("webhook.create", operator.dialog)
    expect(operator.dialog.locator(".secret code")).to_be_visible()
    operator.confirm("action.close")
    row = operator.row("127.0.0.1:9")
    expect(row).to_contain_text(operator.text("event.batch_ended"))
    operator.click("action.delete", row)
    operator.confirm("action.delete")
    expect(row).to_have_count(0)


def look_at_the_audit_log(operator: Operator) -> None:
    """It tells of all that was done here, in its order, and is whole."""
    operator.go("audit")
    operator.click("audit.verify")
    intact = operator.console.gateway.call("GET", "/audit/verify")["entries"]
    expect(operator.page.locator(".notice[role=status]")).to_have_text(
        operator.text("audit.intact", count=intact)
    )
    exported = operator.saved(partial(operator.click, "audit.export")).splitlines()
    assert len(exported) == intact
    actions = [json.loads(line)["action"] for line in exported]
    assert actions[-len(ACTIONS) :] == ACTIONS
    expect(operator.page.locator("tbody tr").first).to_contain_text("webhook.delete")
