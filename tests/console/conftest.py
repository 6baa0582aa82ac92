"""One gateway with a fleet, and one browser, for all tests of the console that need them."""

from collections.abc import Iterator

import pytest

from .browser import CHROMIUM, Gateway


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    """Chromium; a test that asks for it is skipped on a machine without it.

    Not for the whole session: its client waits for the end of its process on an event loop of its own, which
    hears nothing of it any more after other tests have run Trio for minutes.
    """
    if CHROMIUM is None:
        pytest.skip("needs chromium")
    from .browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway with two products and eight devices online, of which one fails whatever it is sent."""
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    try:
        for key, name in (("lamp", "Street lamp"), ("lock", "门锁")):
            gateway.call("POST", "/products", json={"key": key, "name": name})
        gateway.devices("lamp", 7)
        gateway.devices("lamp", 1, "--fail", "burn_failed", prefix="worn-")
        yield gateway
    finally:
        gateway.close()
