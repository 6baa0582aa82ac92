"""Runs the Autobahn test suite's fuzzing client against `python -m otagate.plane.echo`.

    tools/autobahn [--runs N] [--cases 1.*,2.*]

The client (`wstest`) is a program for Python 2.7, so it has an environment of its own, outside of the
project's:

    python2.7 -m pip install virtualenv && python2.7 -m virtualenv DIRECTORY
    DIRECTORY/bin/pip install autobahntestsuite==25.10.1
    OTAGATE_WSTEST=DIRECTORY/bin/wstest tools/autobahn

Any verdict but OK, NON-STRICT (allowed by RFC 6455: what came before a broken frame need not be echoed first)
and INFORMATIONAL fails the run. Reports, as pages, in build/autobahn.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "build" / "autobahn"
# Without 12 and 13: compression, which is not negotiated.
CASES = "1.*,2.*,3.*,4.*,5.*,6.*,7.*,9.*,10.*"
ALLOWED = {"OK", "NON-STRICT", "INFORMATIONAL"}
RUN_S_MAX = 900


def run_once(wstest: str, address: str, cases: list[str]) -> dict[str, dict[str, str]]:
    """The verdicts by case."""
    REPORTS.mkdir(parents=True, exist_ok=True)
    server = {"agent": "otagate", "url": f"ws://{address}/"}
    what = {"cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}
    specification = REPORTS / "specification.json"
    specification.write_text(json.dumps({"outdir": str(REPORTS), "servers": [server], **what}))
    command = [wstest, "--mode", "fuzzingclient", "--spec", str(specification)]
    subprocess.run(command, check=True, timeout=RUN_S_MAX, stdout=subprocess.DEVNULL, cwd=REPORTS)
    verdicts: dict[str, dict[str, str]] = json.loads((REPORTS / "index.json").read_text())["otagate"]
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/autobahn", description="The Autobahn test suite.")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--cases", default=CASES)
    arguments = parser.parse_args()
    wstest = os.environ.get("OTAGATE_WSTEST") or shutil.which("wstest")
    if not wstest:
        print(__doc__, file=sys.stderr)
        return 2
    failed = False
    echo = [sys.executable, "-m", "otagate.plane.echo", "127.0.0.1:0"]
    with subprocess.Popen(echo, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        try:
            for run in range(1, arguments.runs + 1):
                verdicts = run_once(wstest, address, arguments.cases.split(","))
                counted = Counter(verdict["behavior"] for verdict in verdicts.values())
                bad = [
                    case
                    for case, verdict in verdicts.items()
                    if not {verdict["behavior"], verdict["behaviorClose"]} <= ALLOWED
                ]
                failed = failed or bool(bad) or not verdicts
                print(f"run {run}: {len(verdicts)} cases, {dict(counted)}", *bad, flush=True)
        finally:
            server.terminate()
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
