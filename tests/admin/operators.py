"""The real service behind the real surface, on virtual time, and operators with tokens of each role."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from otagate import config
from otagate.admin import build
from otagate.gateway.views_operators import CreateTokenRequest
from tests.gateway.harness import Harness, TestStore, gateway_harness

V1 = "/api/v1"
ROLES = ("viewer", "operator", "admin")


class Surface:
    """A gateway with its surface; `tokens` holds the text of one token of each role."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.app = build(harness.service)
        self.tokens: dict[str, str] = {}

    def rebuild(self) -> None:
        """The service is another one."""
        self.app = build(self.harness.service)

    def client(self, token: str | None = None, address: str = "192.0.2.1") -> httpx.AsyncClient:
        """A client with this token, at this address."""
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        transport = httpx.ASGITransport(self.app, client=(address, 50000))
        return httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers)

    def of(self, role: str, **more: Any) -> httpx.AsyncClient:
        """A client with the token of this role."""
        return self.client(self.tokens[role], **more)

    async def audit(self, **query: Any) -> list[dict[str, Any]]:
        """The newest entries."""
        response = await self.of("admin").get(f"{V1}/audit", params=query)
        assert response.status_code == 200, response.text
        return list(response.json()["items"])


@asynccontextmanager
async def surface(store: TestStore | None = None, **sections: Any) -> AsyncIterator[Surface]:
    """See Surface."""
    sections.setdefault("admin", {})["hosts"] = config.HostNames("gateway")
    async with gateway_harness(store, **sections) as harness:
        made = Surface(harness)
        if store is None:
            for role in ROLES:
                request = CreateTokenRequest(role, role)  # type: ignore[arg-type]
                made.tokens[role] = (await harness.service.create_token(request)).token
        yield made


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code of a refusal."""
    return response.status_code, response.json()["error"]["code"]
