"""Builds the compiled modules: each ext/otagate/<path>.pyx becomes otagate.<path>.

OTAGATE_ASAN=1 builds with AddressSanitizer, OTAGATE_TRACE=1 with line tracing for coverage.
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).parent
EXT = Path("ext")
compile_args = ["-O3", "-fno-strict-aliasing", "-Wall", "-Wno-unused-function"]
link_args = ["-Wl,--as-needed"]
if os.environ.get("OTAGATE_ASAN"):
    compile_args += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-g", "-O1"]
    link_args += ["-fsanitize=address,undefined"]


def modules() -> list[Extension]:
    """One extension per .pyx below ext/, named after its path."""
    found = []
    for path in sorted((ROOT / EXT).rglob("*.pyx")):
        source = path.relative_to(ROOT)
        name = ".".join(source.relative_to(EXT).with_suffix("").parts)
        found.append(
            Extension(
                name,
                [str(source)],
                include_dirs=["ext"],
                libraries=["ssl", "crypto"],
                extra_compile_args=compile_args,
                extra_link_args=link_args,
            )
        )
    return found


setup(
    packages=[*find_packages("src"), "otagate_bench", "otagate_bench.scenarios", "otagate_bench.peers"],
    package_dir={"": "src", "otagate_bench": "bench"},
    ext_modules=cythonize(
        modules(),
        include_path=["ext"],
        language_level=3,
        compiler_directives={
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "embedsignature": True,
            "linetrace": bool(os.environ.get("OTAGATE_TRACE")),
        },
    ),
)
