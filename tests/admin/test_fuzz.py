"""Every operation of the API document under requests made of that document, and of what it forbids.

The generator knows nothing of the gateway but /openapi.json. Each part of a request (path, query, headers,
body) is drawn as the schema has it, at its bounds, or against it. Whatever comes in, the answer has a status
that the document tells of and is never 5xx, and an error has the one form of errors. tools/fuzz_api does the
same for longer, with an independent generator on a real gateway.
"""

import json
import logging
import random
import re
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import pytest

from otagate.admin import build

from .conftest import AUTHORIZED, drained
from .fake import FakeService

REQUESTS_AN_OPERATION = 30
# A stream of events does not end, so it is not asked for in process (test_events.py has it).
ENDLESS = {"stream"}

Json = dict[str, Any]

STRANGE_TEXTS = [
    *("", " ", "\x00", "\x7f\x1b[0m", "a\r\nX-Injected: 1", "..", "../../etc/passwd", "%00", "%", "+", "a/b"),
    *(
        "𠮷野家",
        "e\u0301",
        "\u202egnp.exe",
        "\ufeff",
        "🧯" * 40,
        "İ",
        "ﬀ",
        "x" * 5000,
        "'; DROP",
        "=1+1",
        "null",
    ),
]
STRANGE_NUMBERS = [-1, 0, 1, 2**31, 2**63, 2**64, -(2**63), 10**40, 0.5, 1e308, -0.0]
STRANGE_VALUES: list[Any] = [None, True, [], {}, [[]], {"a": {"b": []}}, "1", *STRANGE_NUMBERS]
STRANGE_BODIES = [
    *(b"", b"{", b"null", b"[]", b'"\\ud800"', b"\xff\xfe{}", b"\xef\xbb\xbf{}", b'{"a":1,"a":2}', b"NaN"),
    *(b"[" * 5000, b"1" * 5000, b'{"key": 1e999}', b"\x00" * 100, b"a,b\n1,2\n", b"identifier\nx\n"),
]
KNOWN = {"key": "lamp", "identifier": "d1", "id": "f1", "product": "lamp", "firmware": "f1", "token": "wrong"}


class Requests:
    """Requests drawn from a document by a seed."""

    def __init__(self, document: Json, seed: int) -> None:
        self._schemas = document["components"]["schemas"]
        self._random = random.Random(seed)

    def draw(self, path: str, method: str, operation: Json) -> tuple[httpx.Request, bool]:
        """A request for an operation, and whether it keeps to the document in every part."""
        kept = True
        values: dict[str, dict[str, str]] = {"path": {}, "query": {}, "header": {}}
        for parameter in operation["parameters"]:
            if not parameter.get("required") and self._random.random() < 0.6:
                continue
            strange = self._random.random() < 0.25
            kept = kept and not strange
            name, schema = parameter["name"], parameter["schema"]
            value = self._strange(schema) if strange else self._valid(schema, name)
            text = value if isinstance(value, str) else json.dumps(value)
            values[parameter["in"]][name] = text
        if self._random.random() < 0.1:
            kept = False
            values["query"][self._random.choice(["limit", "q", "no_such", "cursor"])] = self._text()
        headers = {name.encode(): header(value) for name, value in values["header"].items()}
        body, media, body_kept = self._body(operation)
        if media:
            headers[b"content-type"] = media.encode()
        filled = re.sub(r"{(\w+)}", lambda found: segment(values["path"][found[1]]), path)
        query = urlencode(values["query"], errors="replace")
        url = f"http://test{filled}?{query}"
        return httpx.Request(method, url, headers=headers, content=body), kept and body_kept

    def _body(self, operation: Json) -> tuple[bytes | None, str, bool]:
        content = operation.get("requestBody", {}).get("content", {})
        if not content:
            unasked = self._random.random() < 0.1
            return (self._random.choice(STRANGE_BODIES) if unasked else None), "", not unasked
        media = self._random.choice(list(content))
        if self._random.random() < 0.1:
            other = self._random.choice(["text/plain", "application/json; charset=latin-1", "a/b/c", "*/*"])
            return b"{}", other, False
        schema = content[media].get("schema")
        if schema is None or self._random.random() < 0.15:
            media = "application/octet-stream" if media == "*/*" else media
            return self._random.choice(STRANGE_BODIES), media, False
        value = self._valid(schema, "")
        if self._random.random() < 0.4:
            return json.dumps(self._spoilt(value)).encode(), media, False
        return json.dumps(value).encode(), media, True

    def _resolved(self, schema: Json) -> Json:
        if "$ref" in schema:
            return dict(self._schemas[schema["$ref"].rpartition("/")[2]])
        if "anyOf" in schema:
            return self._resolved(self._random.choice(schema["anyOf"]))
        return schema

    def _valid(self, schema: Json, name: str) -> Any:
        """A value that the schema allows: at a bound as often as not."""
        schema = self._resolved(schema)
        if "enum" in schema:
            return self._random.choice(schema["enum"])
        if "const" in schema:
            return schema["const"]
        match schema.get("type"):
            case "integer" | "number":
                least = schema.get("minimum", 0)
                most = schema.get("maximum", least + 10)
                return self._random.choice([least, most, self._random.randint(least, most)])
            case "boolean":
                return self._random.random() < 0.5
            case "null":
                return None
            case "array":
                most = min(schema.get("maxItems", 3), 3)
                count = self._random.randint(min(schema.get("minItems", 0), most), most)
                return [self._valid(schema.get("items", {"type": "string"}), name) for _ in range(count)]
            case "object":
                required = schema.get("required", [])
                return {
                    key: self._valid(field, key)
                    for key, field in schema.get("properties", {}).items()
                    if key in required or self._random.random() < 0.5
                }
        if self._random.random() < 0.6 and name in KNOWN:
            return KNOWN[name]
        letters = "abcXYZ019_-"
        least = schema.get("minLength", 1)
        most = min(schema.get("maxLength", 20), 200)
        return "".join(self._random.choices(letters, k=self._random.choice([least, max(least, most)])))

    def _strange(self, schema: Json) -> Any:
        schema = self._resolved(schema)
        if schema.get("type") in ("integer", "number"):
            bounds = [schema[key] + step for key, step in (("minimum", -1), ("maximum", 1)) if key in schema]
            return self._random.choice([*STRANGE_NUMBERS, *bounds, *STRANGE_TEXTS])
        return self._text()

    def _spoilt(self, value: Any) -> Any:
        """The same with one thing wrong: of another type, absent, or besides."""
        if not isinstance(value, dict) or not value or self._random.random() < 0.1:
            return self._random.choice([*STRANGE_VALUES, self._text()])
        spoilt = dict(value)
        name = self._random.choice(list(spoilt))
        match self._random.randrange(3):
            case 0:
                spoilt[name] = self._random.choice([*STRANGE_VALUES, *STRANGE_TEXTS])
            case 1:
                del spoilt[name]
            case _:
                spoilt[self._text()] = self._random.choice(STRANGE_VALUES)
        return spoilt

    def _text(self) -> str:
        return self._random.choice(STRANGE_TEXTS)


def segment(text: str) -> str:
    """A part of a path; what a client takes for another path ("..") stays away."""
    return "-" if text in ("", ".", "..") else quote(text, safe="")


def header(text: str) -> bytes:
    """As a header can carry it: httpx and h11 refuse what a server never sees."""
    return re.sub(rb"[\x00-\x1f\x7f]", b"?", text.encode()).strip()


def check(operation: Json, response: httpx.Response) -> None:
    """What holds for every answer to this operation."""
    told = f"{response.request.method} {response.request.url}: {response.status_code} {response.text[:300]}"
    assert response.status_code < 500, told
    assert str(response.status_code) in operation["responses"], told
    if response.status_code >= 400:
        error = response.json()["error"]
        assert error.keys() <= {"code", "message", "field", "details"}, told
        assert error["code"], told
        assert error["message"], told


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_operation(service: FakeService, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    caplog.set_level(logging.ERROR)
    transport = httpx.ASGITransport(drained(build(service)))
    accepted = set()
    async with httpx.AsyncClient(transport=transport, headers=AUTHORIZED) as client:
        document = (await client.get("http://test/openapi.json")).json()
        requests = Requests(document, seed)
        operations = [
            (path, method.upper(), operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
            if operation["operationId"] not in ENDLESS
        ]
        for path, method, operation in operations * REQUESTS_AN_OPERATION:
            request, kept = requests.draw(path, method, operation)
            request.headers.update(AUTHORIZED)
            response = await client.send(request)
            check(operation, response)
            if response.is_success and kept:
                accepted.add(operation["operationId"])
    assert caplog.records == []
    # a generator whose requests are all refused would test nothing
    assert len(accepted) > len(operations) / 2, sorted(accepted)
