"""From accept to event no Python is touched: read in the C that Cython made of every function on the way.

`noexcept nogil` is a promise that the compiler mostly checks; what it lets through (an index that may be out
of range, a division by zero, a cast) becomes a call into Python, with the GIL taken for it. So the C is read.
"""

import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

EXT = Path(__file__).parents[2] / "ext" / "otagate"
# All of the plane but its face, and what of wire it calls.
MODULES = sorted(
    [path for path in (EXT / "plane").glob("*.pyx") if path.stem != "face"]
    + [EXT / "wire" / "frames.pyx", EXT / "wire" / "handshake.pyx"]
)
# As setup.py has them.
DIRECTIVES = ["-X", "boundscheck=False", "-X", "wraparound=False", "-X", "cdivision=True"]
PYTHON = re.compile(r"\b(?:_?Py[A-Z]?_?[A-Z]\w*|__Pyx_\w+|CYTHON_\w*GIL\w*)")
# What the macros of a plain C function may be called.
HARMLESS = {"__Pyx_memviewslice", "__Pyx_SizeOf"}
DEFINITION = re.compile(r"^static [^;={}]*?\b(__pyx_f_\w+)\([^;{}]*\) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
CALL = re.compile(r"\b(__pyx_f_\w+)\(")


@cache
def read_c(source: Path) -> str:
    """The C of a module without comments (they quote the source) and strings.

    The build left it beside the source; if it is older than that, it is made again, elsewhere.
    """
    generated = source.with_suffix(".c")
    if generated.exists() and generated.stat().st_mtime >= source.stat().st_mtime:
        return strip(generated.read_text())
    with TemporaryDirectory() as folder:
        made = Path(folder) / generated.name
        command = [sys.executable, "-m", "cython", "-3", *DIRECTIVES, "-I", str(EXT.parent)]
        subprocess.run([*command, str(source), "-o", str(made)], check=True)
        return strip(made.read_text())


def strip(code: str) -> str:
    code = re.sub(r"/\*.*?\*/", "", code, flags=re.DOTALL)
    return re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', code)


def functions(code: str) -> dict[str, str]:
    """Name and body of each cdef function that is defined in it."""
    return dict(DEFINITION.findall(code))


def python_calls(bodies: dict[str, str]) -> list[str]:
    """Everything of Python's C API, and of Cython's around it, that they name."""
    return [
        f"{name}: {found}"
        for name, body in bodies.items()
        for found in sorted(set(PYTHON.findall(body)) - HARMLESS)
    ]


def declared(source: Path) -> set[str]:
    """Names of the functions in the .pyx."""
    return set(re.findall(r"^cdef [^=:\n]*?\b(\w+)\(", source.read_text(), re.MULTILINE))


@pytest.mark.parametrize("source", MODULES, ids=lambda path: path.stem)
def test_no_function_calls_python(source: Path) -> None:
    bodies = functions(read_c(source))
    missing = [name for name in declared(source) if not any(full.endswith(f"_{name}") for full in bodies)]
    assert missing == [], "functions of the source that were not found in the C"
    assert python_calls(bodies) == []


def test_calls_lead_only_to_functions_that_were_read() -> None:
    bodies: dict[str, str] = {}
    for source in MODULES:
        bodies |= functions(read_c(source))
    called = {name for body in bodies.values() for name in CALL.findall(body)}
    assert called - bodies.keys() == set()
    # The way from accept to event, by name: it was not lost on the way of reading.
    for name in ("accept_batch", "take_turn", "take_opening", "take_frames", "push_message", "feed", "flush"):
        assert any(full.endswith(f"_{name}") for full in bodies), name


def test_every_function_is_declared_nogil() -> None:
    for source in MODULES:
        if source.parent.name == "plane":
            for signature in re.findall(
                r"^cdef [^=:\n]*?\w+\((?:[^:]*?)\)[^:]*:", source.read_text(), re.MULTILINE
            ):
                assert signature.endswith("noexcept nogil:"), signature


# -- the test can fail -----------------------------------------------------------------------------


def test_it_finds_what_the_face_does() -> None:
    found = python_calls(functions(read_c(EXT / "plane" / "face.pyx")))
    assert any("take_events: PyBytes" in line or "make_tuple: Py" in line for line in found)
    assert any("PyTuple" in line or "PyList" in line for line in found)


@pytest.mark.parametrize(
    "line",
    [
        "__pyx_t_1 = PyLong_FromLong(1);",
        "PyGILState_STATE __pyx_gilstate_save = PyGILState_Ensure();",
        "__Pyx_RaiseUnboundLocalError();",
        "Py_INCREF(x);",
        "_PyObject_Call(x);",
    ],
)
def test_it_finds_a_call_in_a_body(line: str) -> None:
    code = (
        f'static int __pyx_f_7otagate_good(int a) {{\n  /* PyLong */ return puts("PyLong");\n}}\n'
        f"static void __pyx_f_7otagate_bad(Core *core) {{\n  if (x) {{\n    {line}\n  }}\n}}\n"
    )
    bodies = functions(strip(code))
    assert bodies.keys() == {"__pyx_f_7otagate_good", "__pyx_f_7otagate_bad"}
    found = python_calls(bodies)
    assert found
    assert all(name.startswith("__pyx_f_7otagate_bad") for name in found)
