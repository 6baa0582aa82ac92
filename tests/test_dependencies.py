"""What the project needs of others: declared in pyproject.toml, pinned in tools/requirements.txt."""

import ast
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
STALE = "stale: run tools/lock"
# The oldest Python promised and the one platform: what the pins are for.
TARGET = {"python_version": "3.11", "python_full_version": "3.11.0", "sys_platform": "linux", "extra": ""}


def project() -> tuple[list[Requirement], list[Requirement]]:
    """(what is needed to run, what is needed to develop) by pyproject.toml."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [Requirement(text) for text in table["project"]["dependencies"]], [
        Requirement(text) for text in table["dependency-groups"]["dev"]
    ]


def optional() -> list[Requirement]:
    """What some commands of the bench can do without."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [Requirement(text) for text in table["project"]["optional-dependencies"]["bench"]]


def pins() -> dict[str, str]:
    """Version by canonical name."""
    lines = (ROOT / "tools/requirements.txt").read_text().splitlines()
    found: dict[str, str] = {}
    for line in lines:
        if not line.startswith("#"):
            match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9._]+)", line)
            assert match, f"not name==version: {line}"
            found[canonicalize_name(match[1])] = match[2]
    return found


def closure(roots: Iterable[Requirement]) -> set[str]:
    """All that they need in turn, by the metadata of what is installed."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name not in found and (requirement.marker is None or requirement.marker.evaluate(TARGET)):
            found.add(name)
            waiting += [Requirement(text) for text in importlib.metadata.requires(name) or ()]
    return found


def imported(*folders: str) -> set[str]:
    """Top-level names of others' modules that Python files below the folders import."""
    found = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    found |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                    found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"otagate"}


def distributions(modules: set[str]) -> set[str]:
    """The distributions that those modules come from; modules of this tree come from none."""
    providers = importlib.metadata.packages_distributions()
    return {canonicalize_name(name) for module in modules for name in providers.get(module, ())}


def test_pins_satisfy_what_the_project_declares() -> None:
    pinned = pins()
    for requirement in [*project()[0], *project()[1]]:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not pinned; {STALE}"
        assert requirement.specifier.contains(version), f"{requirement} but pinned {version}; {STALE}"


def test_pins_are_the_whole_closure_and_nothing_else() -> None:
    needed = closure([*project()[0], *project()[1]])
    assert pins().keys() == needed, STALE


def test_pins_are_what_is_installed() -> None:
    for name, version in pins().items():
        assert importlib.metadata.version(name) == version, f"{name}: run tools/build"


def test_the_package_imports_only_what_it_declares() -> None:
    declared = {canonicalize_name(requirement.name) for requirement in project()[0]}
    assert distributions(imported("src")) <= declared


def test_the_rest_imports_only_what_is_declared() -> None:
    declared = {
        canonicalize_name(requirement.name) for group in [*project(), optional()] for requirement in group
    }
    assert distributions(imported("src", "tests", "bench", "tools")) <= declared
