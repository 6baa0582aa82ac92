"""What a long run keeps of itself, so that it can be ended and go on: a file of JSON, an object a line.

The first line says what the others are of: the code, and how it was run. Long runs prove something about one
version of the code, so a file of another one is refused.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def code(*folders: str) -> str:
    """A digest of the gateway's sources, and of these folders' under the root."""
    paths = [*(ROOT / "src").rglob("*.py"), *(ROOT / "ext").rglob("*.p[yx]*")]
    for folder in folders:
        paths += (ROOT / folder).rglob("*.py")
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(paths))).hexdigest()[:16]


class Record:
    """`lines`: what was kept before, without the first. SystemExit: the file is of something else."""

    def __init__(self, path: Path | None, about: dict[str, Any]) -> None:
        self.lines: list[dict[str, Any]] = []
        self._path = path
        if path is None:
            return
        whole, _, _ = (path.read_text() if path.exists() else "").rpartition("\n")
        found = [json.loads(line) for line in whole.splitlines()]
        path.write_text(f"{whole}\n" if whole else "")  # without what a kill has cut off
        if not found:
            self.keep(about)
        elif found[0] != about:
            raise SystemExit(f"{path} is of {found[0]}, this is {about}: begin another file")
        self.lines = found[1:]

    def keep(self, facts: dict[str, Any]) -> None:
        """One more line, if there is a file."""
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(facts) + "\n")
