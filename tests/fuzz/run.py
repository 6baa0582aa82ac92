"""Coverage-guided fuzzing with libFuzzer, AddressSanitizer and UndefinedBehaviorSanitizer.

    tools/fuzz TARGET|all [--seconds N] [--keep]
    tools/fuzz TARGET FILE …                    # only these inputs, to look at a finding

The wire and the plane are compiled once more, by clang and instrumented, into build/fuzz; the modules that
the rest of the project runs are not touched. Findings lie in build/fuzz/findings; `--keep` adds to
tests/fuzz/corpus what reaches code that the corpus does not reach.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
BUILD = ROOT / "build" / "fuzz"
ROOMS = ("wire", "plane")
SANITIZERS = "-fsanitize=address,undefined"
COMPILE = ["-g", "-O1", "-fno-omit-frame-pointer", "-fno-strict-aliasing", "-fno-sanitize-recover=all", "-w"]
KEPT_BYTES_MAX = 2_048  # of one input in the corpus


def has_fuzzer(clang: str) -> bool:
    """The compiler may come without the runtimes that it links with."""
    program = "#include <stdint.h>\nint LLVMFuzzerTestOneInput(const uint8_t *data, long size) { return 0; }"
    command = [clang, f"{SANITIZERS},fuzzer", "-w", "-x", "c", "-", "-o", os.devnull]
    return subprocess.run(command, input=program.encode(), capture_output=True, check=False).returncode == 0


def compiler() -> str:
    """Raises SystemExit if there is none."""
    for name in ("clang", "clang-14", "clang-15", "clang-16", "clang-17", "clang-18", "clang-19"):
        found = shutil.which(name)
        if found and has_fuzzer(found):
            return found
    raise SystemExit(
        "clang with its libFuzzer is missing; on Debian: apt-get install clang libclang-rt-14-dev"
    )


def python_library() -> list[str]:
    """What links an executable with this interpreter."""
    folder = sysconfig.get_config_var("LIBDIR")
    return [f"-L{folder}", f"-Wl,-rpath,{folder}", f"-lpython{sysconfig.get_config_var('LDVERSION')}"]


def changed(made: Path, sources: list[Path]) -> bool:
    """Is this to be made anew? Leaves a note of what it is made from beside it."""
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in [*sources, Path(__file__)])).hexdigest()
    note = made.with_suffix(".made-from")
    if made.exists() and note.exists() and note.read_text() == digest:
        return False
    made.unlink(missing_ok=True)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(digest)
    return True


def build_module(clang: str, source: Path, declarations: list[Path]) -> None:
    """One .pyx, instrumented."""
    place = source.relative_to(ROOT / "ext")
    module = BUILD / "lib" / place.with_suffix(".so")
    if not changed(module, [source, *declarations]):
        return
    generated = BUILD / "c" / place.with_suffix(".c")
    generated.parent.mkdir(parents=True, exist_ok=True)
    directives = ("boundscheck=False", "wraparound=False", "cdivision=True", "embedsignature=True")
    options = [word for directive in directives for word in ("-X", directive)]
    cython = [sys.executable, "-m", "cython", "-3", "-I", "ext", *options, "-o", str(generated), str(source)]
    subprocess.run(cython, cwd=ROOT, check=True)
    include = ["-I", sysconfig.get_path("include"), "-I", "ext"]
    command = [clang, *COMPILE, f"{SANITIZERS},fuzzer-no-link", "-shared", "-fPIC", *include, str(generated)]
    subprocess.run([*command, "-lssl", "-lcrypto", "-o", str(module)], cwd=ROOT, check=True)


def build() -> Path:
    """The fuzzer's executable, and beside it the package with instrumented modules; what changed, anew."""
    clang = compiler()
    for path in (ROOT / "src/otagate").rglob("*.py"):
        copy = BUILD / "lib" / path.relative_to(ROOT / "src")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    declarations = sorted(path for room in ROOMS for path in (ROOT / "ext/otagate" / room).glob("*.p*d"))
    for room in ROOMS:
        for source in sorted((ROOT / "ext/otagate" / room).glob("*.pyx")):
            build_module(clang, source, declarations)
    executable = BUILD / "fuzz"
    harness = Path(__file__).with_name("harness.c")
    if changed(executable, [harness]):
        include = ["-I", sysconfig.get_path("include")]
        command = [clang, *COMPILE, f"{SANITIZERS},fuzzer", *include, str(harness), *python_library()]
        subprocess.run([*command, "-Wl,--export-dynamic", "-o", str(executable)], check=True)
    return executable


def environment_of(target: str) -> dict[str, str]:
    return os.environ | {
        "OTAGATE_FUZZ_TARGET": target,
        "OTAGATE_FUZZ_PYTHON": sys.executable,
        "PYTHONPATH": f"{BUILD / 'lib'}:{ROOT}",
        "PYTHONMALLOC": "malloc",  # so that the sanitizer sees Python's objects, too
        # Leaks are looked for by tests.fuzz.traces: Python's own at exit are none of ours.
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def fuzz(executable: Path, target: str, seconds: int, keep: bool) -> int:
    """Fuzzes for so long; returns libFuzzer's exit code."""
    kept = CORPUS / target
    grown = BUILD / "corpus" / target
    findings = BUILD / "findings" / target
    for folder in (kept, grown, findings):
        folder.mkdir(parents=True, exist_ok=True)
    words = Path(__file__).with_name("words.dict")
    done = subprocess.run(
        [
            *(executable, grown, kept, f"-dict={words}", f"-artifact_prefix={findings}/"),
            *(f"-max_total_time={seconds}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=4096"),
            *("-print_final_stats=1", "-close_fd_mask=1"),
        ],
        env=environment_of(target),
        check=False,
    )
    if keep and done.returncode == 0:
        merge = [executable, "-merge=1", f"-max_len={KEPT_BYTES_MAX}", kept, grown]
        done = subprocess.run(merge, env=environment_of(target), check=False)
    return done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/fuzz", description="Fuzzes what peers' bytes reach.")
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("files", nargs="*", type=Path, help="only these inputs")
    parser.add_argument("--seconds", type=int, default=60, help="of each target (default: 60)")
    parser.add_argument("--keep", action="store_true", help="add what reaches new code to the corpus")
    arguments = parser.parse_args()
    executable = build()
    if arguments.files:
        command = [executable, *arguments.files]
        return subprocess.run(command, env=environment_of(arguments.target), check=False).returncode
    targets = list(TARGETS) if arguments.target == "all" else [arguments.target]
    for target in targets:
        code = fuzz(executable, target, arguments.seconds, arguments.keep)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
