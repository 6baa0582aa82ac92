"""What is served as the console: the files as they are, headers and policy; and what they may contain."""

import gzip
import hashlib
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from otagate.admin import build, console

from ..admin.conftest import drained
from ..admin.fake import FakeService

STATIC = Path(console.__file__).parent / "static"
VENDOR = STATIC / "vendor"
OWN = [path for path in sorted(STATIC.rglob("*")) if path.is_file() and VENDOR not in path.parents]
SCRIPTS = [path for path in OWN if path.suffix == ".js"]
SCRIPT_LINES_MAX = 400
TEXT_LINES_MAX = 500  # of the dictionaries: a line a text
IMPORT = r"""\bfrom ?["']([^"'\s]+)["'];"""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a token, in process."""
    transport = httpx.ASGITransport(drained(build(FakeService(tmp_path))))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def folder() -> str:
    return f"/console/{console.files().digest}"


# -- serving ---------------------------------------------------------------------------------------


async def test_front_page(client: httpx.AsyncClient) -> None:
    page = await client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["cache-control"] == "private, no-cache"
    assert page.headers["content-security-policy"] == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    named = re.findall(r'(?:src|href)="([^"]*)"', page.text)
    assert len(named) >= 5
    for path in named:
        assert (await client.get(f"/{path}")).status_code == 200, path


async def test_every_file(client: httpx.AsyncClient) -> None:
    types = {".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    for path in STATIC.rglob("*"):
        if not path.is_file() or path.name == "index.html":
            continue
        plain = await client.get(
            f"{folder()}/{path.relative_to(STATIC)}", headers={"accept-encoding": "identity"}
        )
        assert plain.status_code == 200, path
        assert plain.content == path.read_bytes()
        assert plain.headers["content-type"] == f"{types.get(path.suffix, 'text/plain')}; charset=utf-8"
        assert plain.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert plain.headers["x-content-type-options"] == "nosniff"


async def test_conditional_and_packed(client: httpx.AsyncClient) -> None:
    path = f"{folder()}/app.js"
    async with client.stream("GET", path, headers={"accept-encoding": "br, gzip;q=0.5"}) as packed:
        raw = b"".join([piece async for piece in packed.aiter_raw()])
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["vary"] == "accept-encoding"
    assert gzip.decompress(raw) == (STATIC / "app.js").read_bytes()
    etag = packed.headers["etag"]
    for given in (etag, etag.removeprefix("W/"), f'"other", {etag}'):
        again = await client.get(path, headers={"if-none-match": given})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert (await client.get(path, headers={"if-none-match": '"other"'})).status_code == 200


@pytest.mark.parametrize(
    ("header", "accepts"),
    [
        ("gzip", True),
        ("deflate, GZIP ;q=0.2", True),
        ("gzip;q=0", False),
        ("gzip; q=0.00", False),
        ("br", False),
        ("", False),
        ("xgzip", False),
    ],
)
def test_accepts_gzip(header: str, accepts: bool) -> None:
    assert console.accepts_gzip(header) is accepts


@pytest.mark.parametrize(
    "path",
    [
        "{folder}/nothing.js",
        "{folder}/",
        "{folder}/../console.py",
        "{folder}/%2e%2e/console.py",
        "{folder}/..%2fconsole.py",
        "{folder}/core/../../console.py",
        "{folder}//etc/passwd",
        "{folder}/%00",
        "/console/0000000000000000/app.js",
        "/console/app.js",
        "/static/app.js",
    ],
)
async def test_nothing_else_is_served(client: httpx.AsyncClient, path: str) -> None:
    url = httpx.URL("http://test").copy_with(raw_path=path.format(folder=folder()).encode())
    answer = await client.get(url)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_methods(client: httpx.AsyncClient) -> None:
    path = f"{folder()}/app.js"
    head = await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert (await client.post(path)).headers["allow"] == "GET, HEAD"


def test_digest_tells_every_change() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", console.files().digest)
    assert set(console.files().by_path) == {
        str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.is_file()
    }


# -- contents --------------------------------------------------------------------------------------


def test_vendored_files_are_the_locked_ones() -> None:
    lock = tomllib.loads((VENDOR / "vendor.lock").read_text())
    locked = {}
    for package in lock["package"]:
        assert package.keys() == {"name", "version", "license", "file"}
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"])
        assert any("LICENSE" in file["name"] for file in package["file"]), package["name"]
        locked |= {file["name"]: file["sha256"] for file in package["file"]}
    there = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.iterdir()
        if path.name != "vendor.lock"
    }
    assert there == locked
    assert "://" not in (VENDOR / "vendor.lock").read_text()


def test_imports_are_relative_and_lead_somewhere() -> None:
    found = 0
    for path in [*SCRIPTS, *VENDOR.glob("*.mjs")]:
        for target in re.findall(IMPORT, path.read_text()):
            assert target.startswith(("./", "../")), (path, target)
            assert (path.parent / target).resolve().is_file(), (path, target)
            found += 1
    assert found > 50


def test_no_other_host_is_named() -> None:
    for path in OWN:
        assert set(re.findall(r"https?://[\w-][\w./-]*", path.read_text())) <= {
            "http://www.w3.org/2000/svg"
        }, path


def test_markup_carries_no_script_and_no_style() -> None:
    page = (STATIC / "index.html").read_text()
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for path in SCRIPTS:
        text = path.read_text()
        assert not re.search(
            r'style="|innerHTML|insertAdjacentHTML|\beval\(|new Function|setAttribute\("style', text
        )


def test_only_language_and_theme_are_remembered() -> None:
    users = [
        path.name for path in SCRIPTS if re.search(r"localStorage|sessionStorage|indexedDB", path.read_text())
    ]
    assert users == ["preferences.js"]
    remembered = {
        name for path in SCRIPTS for name in re.findall(r'remember(?:ed)?\("(\w+)"', path.read_text())
    }
    assert remembered == {"language", "theme"}


def test_scripts_are_of_readable_size_and_say_what_they_are() -> None:
    for path in SCRIPTS:
        text = path.read_text()
        assert text.startswith("/*"), path
        most = TEXT_LINES_MAX if path.parent.name == "i18n" else SCRIPT_LINES_MAX
        assert text.count("\n") <= most, path
