"""Runs the Autobahn test suite's fuzzing client against `python -m otagate.plane.echo`.

    tools/autobahn [--runs N] [--cases 1.*,2.*]

The client (`wstest`) is a program for Python 2.7, so it has an environment of its own, outside of the
project's:

    python2.7 -m pip install virtualenv && python2.7 -m virtualenv DIRECTORY
    DIRECTORY/bin/pip install autobahntestsuite==25.10.1
    OTAGATE_WSTEST=DIRECTORY/bin/wstest tools/autobahn

Any verdict but OK, NON-STRICT (allowed by RFC 6455: what came before a broken frame need not be echoed
first) and INFORMATIONAL fails the run, and is told with what the client saw. Its own timers are short:
cases 6.5 to 6.22 drop the connection after 500 ms, others after a second, and call it FAILED. So where a
timer ended a case, that is told too: it may be the machine that was late. Reports, as pages, of each run
in build/autobahn/run-N.
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
# In a report: an entry of its log, or a flag, and what it means.
TIMERS = {
    "KLE": "killed the connection",
    "TIE": "closed the connection",
    "wasServerConnectionDropTimeout": "did not wait longer for the end of TCP",
    "wasOpenHandshakeTimeout": "did not wait longer for the handshake",
    "wasCloseHandshakeTimeout": "did not wait longer for the close frame",
}


def run_once(wstest: str, address: str, cases: list[str], reports: Path) -> dict[str, dict[str, str]]:
    """The verdicts by case."""
    shutil.rmtree(reports, ignore_errors=True)
    reports.mkdir(parents=True)
    server = {"agent": "otagate", "url": f"ws://{address}/"}
    what = {"cases": cases, "exclude-cases": [], "exclude-agent-cases": {}}
    specification = reports / "specification.json"
    specification.write_text(json.dumps({"outdir": str(reports), "servers": [server], **what}))
    command = [wstest, "--mode", "fuzzingclient", "--spec", str(specification)]
    subprocess.run(command, check=True, timeout=RUN_S_MAX, stdout=subprocess.DEVNULL, cwd=reports)
    verdicts: dict[str, dict[str, str]] = json.loads((reports / "index.json").read_text())["otagate"]
    return verdicts


def allowed(verdict: dict[str, str]) -> bool:
    return {verdict["behavior"], verdict["behaviorClose"]} <= ALLOWED


def explained(case: str, verdict: dict[str, str], reports: Path) -> str:
    """What the client says of a case, and which of its timers ran out."""
    report = json.loads((reports / verdict["reportfile"]).read_text())
    happened = {entry[0] for entry in report["wirelog"]}
    timers = [words for sign, words in TIMERS.items() if sign in happened or report.get(sign)]
    return (
        f"  {case}: {verdict['behavior']}, {verdict['behaviorClose']} after {report['duration']} ms: "
        f"{report['result']} {report['resultClose']}; "
        f"the client's timers: {', '.join(timers) or 'none ran out'}"
    )


def run_all(wstest: str, address: str, cases: list[str], runs: int) -> int:
    """How many runs had a verdict that is not allowed, or none at all."""
    failed = 0
    for run in range(1, runs + 1):
        reports = REPORTS / f"run-{run}"
        verdicts = run_once(wstest, address, cases, reports)
        counted = Counter(verdict["behavior"] for verdict in verdicts.values())
        bad = {case: verdict for case, verdict in verdicts.items() if not allowed(verdict)}
        failed += bool(bad) or not verdicts
        print(f"run {run}: {len(verdicts)} cases, {dict(counted)}", flush=True)
        for case, verdict in bad.items():
            print(explained(case, verdict, reports), flush=True)
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(prog="tools/autobahn", description="The Autobahn test suite.")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--cases", default=CASES)
    arguments = parser.parse_args()
    wstest = os.environ.get("OTAGATE_WSTEST") or shutil.which("wstest")
    if not wstest:
        print(__doc__, file=sys.stderr)
        return 2
    echo = [sys.executable, "-m", "otagate.plane.echo", "127.0.0.1:0"]
    with subprocess.Popen(echo, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        try:
            failed = run_all(wstest, address, arguments.cases.split(","), arguments.runs)
        finally:
            server.terminate()
    print(f"{arguments.runs - failed} of {arguments.runs} runs without a bad verdict")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
