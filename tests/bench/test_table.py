"""Targets, ratios, medians and what is shown of them, from made-up results; scenarios small, for real."""

import math
from pathlib import Path
from typing import Any

import pytest
from bench.measure import Bench, Figure, Result, limit_of, merge
from bench.page import (
    breakdown_table,
    curve_table,
    fill,
    peers_markdown,
    place,
    replaced,
    rows_as_dicts,
    summary,
    table_markdown,
    verdict,
)
from bench.parts import Part, facts_of, load, measure, write
from bench.peers import PEERS
from bench.processes import BenchError
from bench.profile import shares
from bench.report import Report, markdown_table, number, times
from bench.rows import FULL, PARTS, SMALL, Row
from bench.scenarios import SCENARIOS, TABLES

from bench import cli


def result(subject: str, value: float, **latencies: float) -> Result:
    """A made-up result."""
    made = Result("report", subject, {"in_flight": 1}, {"reports": Figure(value, "/s")})
    if latencies:
        made.latencies_ms = {"answer": dict(latencies)}
    return made


def row(**options: Any) -> Row:
    """A made-up row."""
    return Row("reports", "reports", lambda bench: [], "≥ 10", lambda row: row.value() >= 10, **options)


def test_repeats_become_medians_with_their_spread() -> None:
    merged = merge([result("gateway", value) for value in (5, 100, 7)])
    assert merged.figures["reports"].value == 7
    assert merged.figures["reports"].spread == (5, 100)


def test_ratios_say_how_much_better_the_gateway_is() -> None:
    rate = row(results={"gateway": result("gateway", 30), "nginx": result("nginx", 10)})
    cost = row(results=rate.results, higher_is_better=False)
    assert rate.ratio("nginx") == 3
    assert cost.ratio("nginx") == pytest.approx(1 / 3)
    assert math.isnan(rate.ratio("absent"))


def test_verdicts() -> None:
    assert verdict(row(results={"gateway": result("gateway", 10)})) == "met"
    assert verdict(row(results={"gateway": result("gateway", 9)})) == "missed"
    assert verdict(row()) == "not measured"


def test_a_figure_may_be_a_percentile() -> None:
    made = row(results={"gateway": result("gateway", 1, p99=4.5)})
    made.figure = "answer/p99"
    assert made.value() == 4.5


def test_measuring_alternates_and_tells_what_failed(tmp_path: Path) -> None:
    order: list[str] = []

    def gateway(bench: Bench) -> list[Result]:
        order.append("gateway")
        return [result("gateway", len(order))]

    def peer(bench: Bench, peer: Any) -> Result:
        order.append(peer.name)
        return result(peer.name, 1)

    made = Row("r", "reports", gateway, "-", lambda row: True, peers=("plane alone", "mosquitto"), peer=peer)
    measure(Bench(tmp_path), [made], ("plane alone",), 2)
    assert order == ["gateway", "plane alone"] * 2
    assert made.results["gateway"].figures["reports"].samples == [1, 3]
    assert "mosquitto" not in made.results
    text = "\n".join(table_markdown([made]))
    assert "| r | - | 2 /s (1 to 3) | - |" in text
    assert "| r | plane alone | 1 /s | 2 × |  |" in peers_markdown([made])
    assert rows_as_dicts([made])[0]["verdict"] == "-"


def test_every_row_names_peers_that_are_and_can() -> None:
    for scale in (FULL, SMALL):
        for part in PARTS.values():
            for made in part(scale):
                assert set(made.peers) <= set(PEERS), made.name
                assert bool(made.peers) == (made.peer is not None) or not made.peers, made.name


def test_who_was_the_limit() -> None:
    assert limit_of(10, 9.5, 4) == "server"
    assert limit_of(10, 5, 9.5) == "fleet"
    assert limit_of(10, 5, 5) == "neither"
    assert limit_of(10, 5, 5, server_wait_s=4.5) == "server, whose core others used"


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234567, "1,234,567"), (99.44, "99.4"), (0.01234, "0.0123")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(0.514, "0.51 ×"), (99.4, "99 ×"), (122.2, "120 ×"), (12345, "12,000 ×")]
)
def test_ratios_are_no_powers_of_ten(ratio: float, text: str) -> None:
    assert times(ratio) == text


def test_tables_keep_their_columns() -> None:
    assert markdown_table(("a", "b"), [("1|2", "3")])[2] == "| 1/2 | 3 |"


def test_every_scenario_is_a_command_with_its_parameters() -> None:
    for name in SCENARIOS:
        assert cli.parser().parse_args([name]).command == name
    parsed = cli.parser().parse_args(["campaign", "--faults", "drop=0.1,slow=0.2", "--devices", "5"])
    assert parsed.faults == {"drop": 0.1, "slow": 0.2}
    assert parsed.devices == 5


def test_a_table_goes_to_its_place_in_a_page() -> None:
    first, last = place("table")
    page = f"# Page\n{first}\nold\n{last}\nmore\n"
    once = replaced(page, "table", "new\n")
    assert "old" not in once
    assert "new" in once
    assert once.endswith(f"{last}\nmore\n")
    assert replaced(once, "table", "new\n") == once
    with pytest.raises(BenchError, match="no <!-- table"):
        replaced("nothing", "table", "new")


def test_the_documents_have_their_places() -> None:
    page = Path("docs/performance.md").read_text()
    for name in ("table", "peers", "breakdown", "curve"):
        replaced(page, name, "new")
    replaced(Path("README.md").read_text(), "summary", "new")
    for name in TABLES:
        replaced(Path(f"docs/{name}.md").read_text(), name, "new", f"tools/bench {name}")
    replaced(Path("docs/reliability.md").read_text(), "hostile", "new", "tools/hostile")


def test_a_scenario_writes_its_own_table(tmp_path: Path) -> None:
    """What was not measured stays empty; a ratio stands with the gateway."""
    ours = Result("tls", "gateway", {"work": "streaming", "receivers": 4})
    ours.figure("per_cpu_s", 2000, "MB/CPU-s")
    ours.figure("to_nginx", 1.25, "×")
    theirs = Result("tls", "nginx", {"work": "streaming", "receivers": 4})
    theirs.figure("per_cpu_s", 1600, "MB/CPU-s")
    page = tmp_path / "tls.md"
    page.write_text("\n".join(("before", *place("tls", "tools/bench tls"), "after")))
    facts = {"processor": "P", "openssl": "O", "kernel": "K", "python": "3", "measured": "today"}
    fill(page, "tls", TABLES["tls"](Report(facts, [ours, theirs])), "tools/bench tls")
    text = page.read_text()
    assert "| streaming | 2,000 MB/CPU-s | 1.25 × | 1,600 MB/CPU-s |  |  |" in text
    assert "| resumptions, on a core that is busy |  |  |  |  |  |" in text
    assert text.startswith("before\n<!-- tls")
    assert text.endswith("<!-- end of tls -->\nafter")


def measured_part(facts: dict[str, str]) -> Part:
    """The reports, made up: a gateway twice as good as nginx at each row."""
    part = Part("report", PARTS["report"](SMALL), [], facts, 60.0, "2026-01-02")
    for made in part.rows:
        made.results = {"gateway": result("gateway", 200_000), "nginx": result("nginx", 100_000)}
        made.failures = {"mosquitto": "missing: it is not installed"}
        part.results += made.results.values()
    return part


def test_parts_are_taken_up_again(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    part = measured_part({"processor": "P", "kernel": "K"})
    write(file, [part], True, rows_as_dicts(part.rows))
    again = load(file, True, SMALL)
    assert list(again) == ["report"]
    assert again["report"].as_dict() == part.as_dict()
    assert [verdict(made) for made in again["report"].rows] == ["met", "met", "missed", "missed"]
    with pytest.raises(BenchError, match="with --small"):
        load(file, False, FULL)
    file.write_text("{}")
    with pytest.raises(BenchError, match="holds no parts"):
        load(file, True, SMALL)


def test_parts_of_different_machines_are_no_table() -> None:
    one, other = measured_part({"processor": "P"}), measured_part({"processor": "Q"})
    assert facts_of([one, one])["measured"] == "2026-01-02, 2 minutes"
    with pytest.raises(BenchError, match="another machine"):
        facts_of([one, other])


def test_the_table_is_written_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "table.json", tmp_path / "table.md"
    write(file, [measured_part({"processor": "P"})], True, [])
    options = ["--small", "--only", "none", "--resume", str(file), "--data", str(tmp_path)]
    assert cli.main(["table", *options, "--table", str(out)]) == 1  # a target was missed
    assert "| nginx | 100,000 /s | 2 × |  |" in out.read_text()
    assert out.read_text() == capsys.readouterr().out
    assert cli.main(["table", "--small", "--only", "none", "--data", str(tmp_path)]) == 1
    assert "nothing was measured" in capsys.readouterr().err


def test_a_target_beside_peers_is_open_without_them() -> None:
    made = row(judged_by=("nginx",), results={"gateway": result("gateway", 30)})
    assert verdict(made) == "not measured"


def test_peers_have_a_line_each() -> None:
    results = {
        name: result(name, value) for name, value in {"gateway": 30, "nginx": 10, "mosquitto": 60}.items()
    }
    for name, cost in {"gateway": 40, "nginx": 20}.items():
        results[name].figures["reports_per_cpu_s"] = Figure(cost, "/CPU-s")
    results["gateway"].figures["reports"].samples = [30, 29, 31]
    results["gateway"].limit = "server"
    made = row(peers=("nginx", "absent", "mosquitto"), results=results)
    assert table_markdown([made])[2:] == ["| reports | ≥ 10 | 30 /s (29 to 31) | met | 40 /CPU-s | server |"]
    assert peers_markdown([row(), made])[2:] == [
        "| reports | nginx | 10 /s | 3 × | 2 × |",
        "|  | mosquitto | 60 /s | 0.5 × |  |",
    ]
    assert peers_markdown([row()]) == []


def test_the_readme_has_what_has_a_headline() -> None:
    made = row(headline="reports", peers=("nginx",))
    made.results = {"gateway": result("gateway", 30), "nginx": result("nginx", 10)}
    facts = {"processor": "P", "kernel": "K", "python": "3", "measured": "today"}
    text = "\n".join(summary([made, row()], Report(facts, [])))
    assert "| reports | 30 /s | ≥ 10 | met | nginx 3 × |" in text
    assert text.count("≥ 10") == 1


def test_costs_of_one_operation_by_layer() -> None:
    made = row(results={"gateway": result("gateway", 200_000)}, work=2.0)
    made.results["gateway"].profile = {"kernel: sockets": 0.75, "Python": 0.25}
    part = Part("breakdown", [made], [], {})
    assert breakdown_table(part)[2] == "| reports | 10 | 7.5 | 2.5 |"


def test_what_a_further_device_costs() -> None:
    part = Part("curve", PARTS["curve"](SMALL), [], {})
    for made, (devices, processes, memory) in zip(
        part.rows, [(200, 1, 1.0), (500, 1, 2.0), (1000, 1, 3.0), (2000, 2, 8.0)], strict=True
    ):
        figures = {name: Figure(7, "CPU-µs") for name in ("login", "upgrade_begun", "report")}
        figures["private_memory"] = Figure(memory, "MiB")
        parameters = {"devices": devices, "processes": processes}
        made.results["gateway"] = Result("curve", "gateway", parameters, figures)
    further = [line.split(" | ")[3] for line in curve_table(part)[2:]]
    assert further == ["-", "3,495", "2,097", "4,194"]


def test_samples_are_counted_by_the_file_they_fell_into() -> None:
    lines = [
        "7 ffff ([kernel.kallsyms])",
        "8 ffff ([kernel.kallsyms])",
        "7 1234 (/x/otagate/.venv/lib/python3.11/site-packages/msgspec/_core.cpython-311.so)",
        "7 1234 (/x/otagate/src/otagate/plane/core.cpython-311.so)",
        "7 1234 (/usr/bin/python3.11)",
        "7 1234 (/usr/lib/libc.so.6)",
        "",
    ]
    layers = [
        "kernel: sockets",
        "kernel: files",
        "data plane, compiled",
        "msgspec",
        "Python",
        "libc and others",
    ]
    assert shares(lines, {7}) == dict.fromkeys(layers, 1 / 6)


def test_only_gateways_of_this_machine(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    arguments = ["idle", "--url", "tcp://192.0.2.1:7700", "--data", str(tmp_path)]
    assert cli.main(arguments) == 1
    assert "127.0.0.0/8" in capsys.readouterr().err.replace("\n", " ")


SMALL_RUNS = {
    "idle": ["--low", "10", "--high", "30"],
    "login": ["--devices", "40"],
    "report": ["--devices", "10", "--seconds", "0.2"],
    "durable": ["--devices", "30", "--rounds", "1"],
    "stream": ["--receivers", "2", "--chunks", "65536", "--size", "300000", "--seconds", "0.2"],
    "push": ["--devices", "40", "--rounds", "2"],
    "campaign": ["--devices", "20", "--size", "100000"],
    "hashing": ["--size", "1048576", "--rounds", "1"],
}


@pytest.mark.slow
@pytest.mark.parametrize("scenario", SMALL_RUNS)
def test_a_scenario_runs(scenario: str, tmp_path: Path) -> None:
    file, page = tmp_path / "out.json", tmp_path / "out.md"
    options = ["--data", str(tmp_path), "--json", str(file), "--report", str(page), "--server-core", "none"]
    assert cli.main([scenario, *SMALL_RUNS[scenario], *options, "--fleet-core", "none"]) == 0
    assert '"figures"' in file.read_text()
    assert f"## {scenario}" in page.read_text()
    assert not list(tmp_path.glob("run-*"))
