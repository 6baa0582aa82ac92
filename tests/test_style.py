"""The house's style as a test: who may import whom, what stays pure, sizes, docstrings, forbidden words.

Each rule is a function from sources to findings, in words. It is run on the whole tree, and on a small bad
sample, which it must find: a rule that does not bite is no rule.
"""

import ast
import re
from collections.abc import Callable, Iterable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent

# -- the rules' tables -----------------------------------------------------------------------------

GROUND = {"errors", "limits", "times"}
LOW = GROUND | {"logs", "wire", "upgrade", "hashing", "signing"}
# The floors, from the ground up: what each room may know. wire and upgrade do not know each other.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "limits": set(),
    "times": set(),
    "openmetrics": set(),
    "logs": GROUND,
    "config_texts": GROUND,
    "config": GROUND | {"config_texts"},
    "wire": GROUND,
    "upgrade": GROUND,
    "hashing": GROUND,
    "signing": GROUND,
    "store": LOW - {"wire"},
    "sdk": LOW - {"upgrade"},
    "plane": LOW - {"upgrade"},
    "gateway": LOW | {"config", "config_texts", "openmetrics", "store", "plane"},
    "admin": GROUND | {"logs", "config", "openmetrics", "gateway"},
    "bench": GROUND | {"logs", "wire", "sdk", "plane", "hashing"},
}
# The wiring knows all rooms.
WIRING = {"__main__", "cli"}
# The only doors of a room to another.
DOORS: dict[tuple[str, str], set[str]] = {
    ("admin", "gateway"): {
        "otagate.gateway.service",
        "otagate.gateway.views",
        "otagate.gateway.views_operators",
        "otagate.gateway.access",  # who asks
        "otagate.gateway.acts",  # and how what they do is told
    },
}
# Where the protocol is translated to the rules: reports in, effects out, and the sessions that carry both.
TRANSLATORS = {
    "otagate.gateway.sessions",
    "otagate.gateway.reports",
    "otagate.gateway.upgrades",
    "otagate.gateway.progress",
}
# No I/O, no clock, no chance: what these need is an argument.
PURE = (
    *("otagate.upgrade", "otagate.wire", "otagate.signing.manifest"),
    *("otagate.sdk.agent", "otagate.openmetrics"),
)
IMPURE = {
    *("asyncio", "logging", "os", "posix", "random", "secrets", "select", "socket", "ssl", "subprocess"),
    *("threading", "time", "trio", "otagate.logs", "otagate.config", "libc.time", "libc.stdio"),
}

FILE_LINES_MAX = 600
FUNCTION_LINES_MAX = 80
LONG_FILES: set[str] = set()
LONG_FUNCTIONS: set[str] = set()

FORBIDDEN_WORDS = re.compile(r"\b(TODO|FIXME|XXX)\b")
MACHINE_PATHS = re.compile(r"(?<![\w.~}$])/(work|root|home|Users)/\w")


# -- reading ---------------------------------------------------------------------------------------


class Source(NamedTuple):
    """A file: where, which module it is (a .pxd or .pyi belongs to its module), and its text."""

    path: str
    module: str
    text: str

    @property
    def room(self) -> str:
        """The room it stands in; "" for the package itself."""
        parts = self.module.split(".")
        return parts[0] if parts[0] != "otagate" else parts[1] if len(parts) > 1 else ""

    @property
    def is_python(self) -> bool:
        return self.path.endswith((".py", ".pyi"))

    @property
    def is_package(self) -> bool:
        return Path(self.path).stem == "__init__"


def sources(
    base: str, *folders: str, suffixes: Iterable[str] = (".py", ".pyi", ".pyx", ".pxd")
) -> list[Source]:
    """The sources below ROOT/base/folders; modules are named after their path below `base`."""
    found = []
    for folder in folders:
        for path in sorted((ROOT / base / folder).rglob("*")):
            if (
                path.suffix in suffixes
                and path.is_file()
                and not re.search(r"__pycache__|node_modules|fuzz/corpus", str(path))
            ):
                inside = path.relative_to(ROOT / base).with_suffix("")
                parts = inside.parts[:-1] if inside.name == "__init__" else inside.parts
                found.append(Source(str(path.relative_to(ROOT)), ".".join(parts), path.read_text()))
    return found


def house() -> list[Source]:
    """What is shipped, and the bench."""
    return sources("src", "otagate") + sources("ext", "otagate") + sources(".", "bench")


def imports(source: Source, modules: set[str], *, typing_only: bool = True) -> set[str]:
    """Full names of the modules it imports; `from package import name` is the module of that name, if any."""
    found = set()
    for base, name in _imported(source, typing_only=typing_only):
        full = f"{base}.{name}" if name else base
        is_module = full in modules or (base == "otagate" and name in MAY_IMPORT.keys() | WIRING)
        found.add(full if is_module else base)
    return found


def _imported(source: Source, *, typing_only: bool) -> Iterator[tuple[str, str]]:
    """(module, name or "") of each import."""
    if not source.is_python:
        pattern = r"^\s*from +([\w.]+) +c?import +(?:\(([^)]*)\)|(.*))"
        for base, inside, plain in re.findall(pattern, source.text, re.MULTILINE):
            yield from ((base, name.split(" as ")[0].strip()) for name in (inside or plain).split(","))
        for base in re.findall(r"^\s*c?import +([\w.]+)", source.text, re.MULTILINE):
            yield base, ""
        return
    tree = ast.parse(source.text, source.path)
    skipped: set[ast.AST] = set()
    if not typing_only:
        guards = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        ]
        skipped = {inner for guard in guards for statement in guard.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = source.module.split(".")[: None if source.is_package else -1]
                above = above[: len(above) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            yield from ((base, alias.name) for alias in node.names)


def room_of(module: str) -> str:
    """The room of one of our modules; "" for the package itself and for others' modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == "otagate" and len(parts) > 1 else "bench" if parts[0] == "bench" else ""


# -- rules -----------------------------------------------------------------------------------------


def check_floors(tree: list[Source]) -> list[str]:
    """Nobody imports from a higher floor, from a neighbour, or past a door."""
    modules = {source.module for source in tree}
    found = []
    for source in tree:
        if source.room in WIRING or not source.room:
            continue
        for target in sorted(imports(source, modules)):
            room = room_of(target)
            if room in ("", source.room):
                continue
            if source.room not in MAY_IMPORT:
                found.append(f"{source.path}: the room {source.room} stands on no floor")
            elif room not in MAY_IMPORT[source.room]:
                found.append(f"{source.path}: {source.room} may not know {target}")
            elif target not in DOORS.get((source.room, room), {target}):
                found.append(f"{source.path}: {target} is no door of {room} for {source.room}")
    return found


def check_translation(tree: list[Source]) -> list[str]:
    """Messages of wire and events or effects of upgrade meet where they are translated, and nowhere else."""
    modules = {source.module for source in tree}
    rules = {"otagate.upgrade.events", "otagate.upgrade.effects"}
    found = []
    for source in tree:
        targets = imports(source, modules | rules | {"otagate.wire.messages"})
        if "otagate.wire.messages" in targets and targets & rules and source.module not in TRANSLATORS:
            found.append(f"{source.path}: imports both messages and {', '.join(sorted(targets & rules))}")
    return found


def check_circles(tree: list[Source]) -> list[str]:
    """No module imports itself by a detour; imports for types alone do not count."""
    modules = {source.module for source in tree}
    graph: dict[str, set[str]] = {}
    for source in tree:
        targets = imports(source, modules, typing_only=False) & modules - {source.module}
        graph.setdefault(source.module, set()).update(targets)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["a circle: " + " → ".join(reversed(error.args[1]))]
    return []


def check_purity(tree: list[Source]) -> list[str]:
    """Pure rooms get time, chance and bytes as arguments."""
    found = []
    for source in tree:
        if any(source.module == pure or source.module.startswith(pure + ".") for pure in PURE):
            for base, name in _imported(source, typing_only=True):
                target = base if base != "otagate" else f"{base}.{name}"
                if any(target == impure or target.startswith(impure + ".") for impure in IMPURE):
                    found.append(f"{source.path}: a pure room imports {target}")
    return found


def check_cimports(tree: list[Source]) -> list[str]:
    """A compiled module uses what it imports: no linter reads Cython."""
    found = []
    for source in tree:
        if not source.path.endswith((".pyx", ".pxd")):
            continue
        code = re.sub(r"#.*", "", re.sub(r'""".*?"""', "", source.text, flags=re.DOTALL))
        for line in re.finditer(r"^from \S+ c?import (\([^)]*\)|.+)", code, re.MULTILINE):
            rest = set(re.findall(r"\w+", code[: line.start()] + code[line.end() :]))
            names = [name.split()[-1] for name in line[1].strip("()").split(",") if name.strip()]
            found += [f"{source.path}: does not use {name}" for name in names if name not in rest]
    return found


def check_sizes(tree: list[Source]) -> list[str]:
    """Files and functions that fit a head."""
    found = []
    for source in tree:
        lines = source.text.count("\n")
        if lines > FILE_LINES_MAX and source.path not in LONG_FILES:
            found.append(f"{source.path}: {lines} lines")
        for node in ast.walk(ast.parse(source.text, source.path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX and f"{source.module}.{node.name}" not in LONG_FUNCTIONS:
                    found.append(f"{source.path}: {node.name} has {lines} lines")
    return found


# Bases that bring no methods of their own to redefine.
PLAIN_BASES = {
    "Struct",
    "NamedTuple",
    "Protocol",
    "Generic",
    "ABC",
    "Exception",
    "Enum",
    "IntEnum",
    "StrEnum",
}


def check_docstrings(tree: list[Source]) -> list[str]:
    """Every module, public class and public function says what it is.

    But for functions of a single statement, whose name and types may say all; for methods of a class with a
    base; and for what is explained elsewhere under its own name: by a method of a Protocol, or by a class
    (`create_product` performs `CreateProduct`).
    """
    parsed = [(source, ast.parse(source.text, source.path)) for source in tree]
    explained = {name for _, module in parsed for name in _explained(module)}

    def undocumented(node: ast.Module | ast.ClassDef) -> Iterator[str]:
        bases = _bases(node) if isinstance(node, ast.ClassDef) else set()
        for inner in node.body:
            if not isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                continue
            elsewhere = bases - PLAIN_BASES or (inner.name in explained and "Protocol" not in bases)
            if inner.name.startswith("_"):
                continue
            if isinstance(inner, ast.ClassDef):
                yield from undocumented(inner)
            elif len(inner.body) == 1 or elsewhere:
                continue
            if not ast.get_docstring(inner):
                yield inner.name

    found = []
    for source, module in parsed:
        if not ast.get_docstring(module):
            found.append(f"{source.path}: the module has no docstring")
        found += [f"{source.path}: {name} has no docstring" for name in undocumented(module)]
    return found


def _explained(module: ast.Module) -> Iterator[str]:
    """Names that the module's interfaces and documented classes explain."""
    for node in ast.walk(module):
        if isinstance(node, ast.ClassDef) and ast.get_docstring(node):
            yield re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.name).lower()
            if "Protocol" in _bases(node):
                yield from (method.name for method in node.body if hasattr(method, "name"))


def _bases(node: ast.ClassDef) -> set[str]:
    """The last names of a class's bases, without their parameters."""
    return {re.sub(r"\[.*", "", ast.unparse(base)).split(".")[-1] for base in node.bases}


def check_prints(tree: list[Source]) -> list[str]:
    """Only the command line speaks to stdout; all others log."""
    return [
        f"{source.path}:{node.lineno}: print"
        for source in tree
        if source.room not in WIRING and source.module != "otagate.plane.echo"
        for node in ast.walk(ast.parse(source.text, source.path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]


def check_words(tree: list[Source]) -> list[str]:
    """No work left for later, nothing that only exists on one machine."""
    return [
        f"{source.path}: {found.group()}"
        for source in tree
        for pattern in (FORBIDDEN_WORDS, MACHINE_PATHS)
        for found in pattern.finditer(source.text)
    ]


# -- the house keeps them --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "check", [check_floors, check_translation, check_circles, check_purity, check_cimports]
)
def test_who_imports_whom(check: Callable[[list[Source]], list[str]]) -> None:
    assert check(house()) == []


@pytest.mark.parametrize("check", [check_sizes, check_prints])
def test_python_of_the_package(check: Callable[[list[Source]], list[str]]) -> None:
    assert check(sources("src", "otagate", suffixes=[".py"])) == []


def test_docstrings() -> None:
    assert check_docstrings(sources("src", "otagate", suffixes=[".py"])) == []


def test_words() -> None:
    texts = [
        ".py",
        ".pyi",
        ".pyx",
        ".pxd",
        ".md",
        ".toml",
        ".txt",
        ".sh",
        ".js",
        ".html",
        ".css",
        ".json",
        ".yml",
        "",
    ]
    tree = sources(".", "src", "ext", "bench", "tests", "tools", "docs", ".ci", suffixes=texts)
    tree += [
        Source(path.name, "", path.read_text())
        for path in ROOT.iterdir()
        if path.suffix in {".md", ".py", ".toml"}
    ]
    assert check_words([source for source in tree if source.path != "tests/test_style.py"]) == []


def test_allow_lists_hold_nothing_that_is_gone() -> None:
    tree = sources("src", "otagate", suffixes=[".py"])
    assert {source.path for source in tree} >= LONG_FILES
    for name in LONG_FUNCTIONS:
        module, _, function = name.rpartition(".")
        assert any(source.module == module and f"def {function}(" in source.text for source in tree), name


def test_every_room_stands_on_a_floor() -> None:
    rooms = {source.room for source in house()} - {""}
    assert rooms <= MAY_IMPORT.keys() | WIRING


# -- and they bite ---------------------------------------------------------------------------------


def sample(**texts: str) -> list[Source]:
    """Sources by module name, with `__` for dots; `…__` is a package, `…_pyx` compiled."""
    tree = []
    for name, text in texts.items():
        suffix = ".pyx" if name.endswith("_pyx") else ".py"
        name = name.removesuffix("_pyx")
        module = name.rstrip("_").replace("__", ".")
        module = module if module.startswith("bench") else "otagate." + module
        path = module.replace(".", "/") + ("/__init__.py" if name.endswith("__") else suffix)
        tree.append(Source(path, module, text))
    return tree


@pytest.mark.parametrize(
    "tree",
    [
        sample(wire__messages="from otagate import upgrade"),
        sample(upgrade__model="from otagate.wire import messages"),
        sample(upgrade__model="from otagate.wire.messages import Hello", wire__messages=""),
        sample(upgrade__model="import otagate.wire.messages"),
        sample(upgrade__model="from ..wire import messages"),
        sample(upgrade__="from ..wire import messages"),
        sample(upgrade__model="from .. import wire", wire__=""),
        sample(upgrade__model="def f():\n    from otagate import wire"),
        sample(upgrade__model="if TYPE_CHECKING:\n    from otagate.wire import messages"),
        sample(errors="from otagate import limits"),
        sample(store__lmdb="from otagate import plane"),
        sample(store__lmdb="from otagate.sdk import agent"),
        sample(plane__face="from otagate.gateway import server"),
        sample(plane__drain_pyx="from otagate.store cimport rows"),
        sample(plane__drain_pyx="    from otagate cimport store", store__=""),
        sample(plane__drain_pyx="cimport otagate.gateway.tables"),
        sample(gateway__server="from otagate import admin"),
        sample(gateway__server="from otagate.sdk import client"),
        sample(gateway__server="import otagate.cli"),
        sample(admin__api="from otagate.store.interface import Store"),
        sample(admin__api="from otagate.gateway.journal import Journal", gateway__journal=""),
        sample(admin__api="from otagate.gateway import journal", gateway__journal=""),
        sample(admin__api="from otagate.upgrade import model"),
        sample(bench__fleet="from otagate.gateway import server"),
        sample(bench__fleet="from otagate.store import lmdb"),
        sample(attic__old="from otagate import errors"),
    ],
)  # fmt: skip
def test_floors_bite(tree: list[Source]) -> None:
    assert len(check_floors(tree)) == 1


def test_floors_let_pass_what_is_right() -> None:
    tree = sample(
        errors="from typing import Any",
        wire__frames="from otagate import limits\nfrom otagate.wire import messages\nfrom . import messages",
        wire__messages="import msgspec",
        plane__drain_pyx="from otagate.wire cimport frames\nfrom libc.stdint cimport uint8_t",
        gateway__sessions="from otagate import upgrade, wire, plane, store, config",
        gateway__service="from otagate.store import interface",
        admin__api="from otagate.gateway import service\nfrom otagate.gateway.service import Service",
        cli__serve="from otagate import admin, gateway, sdk, store, upgrade",
        bench__fleet="from otagate import sdk, wire, plane\nfrom bench import peers",
    )
    assert check_floors(tree) == check_translation(tree) == check_circles(tree) == check_purity(tree) == []


def test_translation_bites() -> None:
    both = "from otagate.wire import messages\nfrom otagate.upgrade.events import Progress"
    assert check_translation(sample(gateway__dispatch=both)) == [
        "otagate/gateway/dispatch.py: imports both messages and otagate.upgrade.events"
    ]
    assert check_translation(sample(gateway__sessions=both)) == []


@pytest.mark.parametrize(
    "tree",
    [
        sample(gateway__a="from otagate.gateway import b", gateway__b="import otagate.gateway.a"),
        sample(
            gateway__a="from . import b",
            gateway__b="def f():\n    from .c import x",
            gateway__c="from . import a",
        ),
        sample(
            store__="from otagate.store.lmdb import Engine", store__lmdb="from otagate.store import Store"
        ),
        sample(plane__a_pyx="from otagate.plane cimport b", plane__b_pyx="from otagate.plane.a cimport x"),
    ],
)
def test_circles_bite(tree: list[Source]) -> None:
    assert len(check_circles(tree)) == 1


def test_an_import_for_types_closes_no_circle() -> None:
    guarded = "if TYPE_CHECKING:\n    from otagate.gateway import a"
    assert check_circles(sample(gateway__a="from otagate.gateway import b", gateway__b=guarded)) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from libc.stdlib cimport free, malloc\nmalloc(1)  # not free", 1),
        ("from a cimport (\n    b,\n    c as d, e,\n)\nb = e", 1),
        ("from a cimport b\nfrom c import b as d\nd = b", 0),
    ],
)
def test_cimports_bite(text: str, found: int) -> None:
    assert len(check_cimports(sample(plane__a_pyx=text))) == found
    assert check_cimports(sample(plane__a=text)) == []


@pytest.mark.parametrize(
    "tree",
    [
        sample(upgrade__states="import time"),
        sample(upgrade__states="from time import monotonic"),
        sample(upgrade__states="import os.path"),
        sample(upgrade__states="from otagate import logs", logs=""),
        sample(wire__="import random"),
        sample(wire__codec_pyx="from libc.time cimport time"),
        sample(wire__codec_pyx="from posix.unistd cimport read"),
        sample(wire__codec="def f():\n    import trio"),
        sample(sdk__agent="import socket"),
    ],
)
def test_purity_bites(tree: list[Source]) -> None:
    assert len(check_purity(tree)) == 1


def test_sizes_bite() -> None:
    assert check_sizes(sample(store__a="\n" * (FILE_LINES_MAX + 1))) == ["otagate/store/a.py: 601 lines"]
    long = "class C:\n  async def f():\n" + "    x\n" * FUNCTION_LINES_MAX
    assert check_sizes(sample(store__a=long)) == ["otagate/store/a.py: f has 81 lines"]
    assert check_sizes(sample(store__a=long.removesuffix("    x\n"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "import os",
        '"""M."""\ndef f():\n    a\n    b',
        '"""M."""\nasync def f():\n    a\n    b',
        '"""M."""\nclass C: ...',
        '"""M."""\nclass C(Struct):\n    """C."""\n    def f(self):\n        a\n        b',
        '"""M."""\nclass C:\n    """C."""\n    @property\n    def f(self):\n        a\n        b',
    ],
)
def test_docstrings_bite(text: str) -> None:
    assert len(check_docstrings(sample(store__a=text))) == 1


@pytest.mark.parametrize(
    "text",
    [
        '"""M."""\ndef _f():\n    a\n    b\nclass _C:\n    def f(self):\n        a\n        b',
        '"""M."""\ndef f():\n    """F."""\n    def inner():\n        a\n        b',
        '"""M."""\nclass C(Store):\n    """C."""\n    def f(self):\n        a\n        b',
        '"""M."""\nclass C:\n    """C."""\n    def __init__(self):\n        a\n        b',
        '"""M."""\ndef delete_product(key: str) -> None:\n    a',
        '"""M."""\nclass P(Protocol):\n    """P."""\n    def f(self): ...\n'
        'class C:\n    """C."""\n    def f(self):\n        a\n        b',
        '"""M."""\nclass PutRow:\n    """P."""\ndef put_row():\n    a\n    b',
    ],
)
def test_docstrings_let_pass_what_needs_none(text: str) -> None:
    assert check_docstrings(sample(store__a=text)) == []


def test_prints_bite() -> None:
    assert check_prints(sample(store__a="def f():\n    print(1)")) == ["otagate/store/a.py:2: print"]
    assert check_prints(sample(cli__a="print(1)", plane__echo="print(1)", store__a="'print(1)'")) == []


@pytest.mark.parametrize(
    "text", ["# TODO: later", "x  # FIXME", "open('/root/x')", "see /work/main", "=/home/me"]
)
def test_words_bite(text: str) -> None:
    assert len(check_words(sample(store__a=text))) == 1


@pytest.mark.parametrize(
    "text", ["mastodon", "api/work/item", "https://host.example/home/x", "/product", "$HOME/x"]
)
def test_words_let_pass_what_is_right(text: str) -> None:
    assert check_words(sample(store__a=text)) == []
