"""Targets, ratios, medians and what is shown of them, from made-up results; scenarios small, for real."""

import math
from pathlib import Path
from typing import Any

import pytest
from bench.measure import Bench, Figure, Result, limit_of, merge
from bench.peers import PEERS
from bench.processes import BenchError
from bench.report import Report, markdown_table, number
from bench.rows import FULL, PARTS, SMALL, Row
from bench.scenarios import SCENARIOS
from bench.table import PLACE_END, PLACE_START, measure, replaced, rows_as_dicts, table_markdown, verdict

from bench import cli, machine


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
    report = Report(machine.facts(tmp_path), Bench(tmp_path), [], 1.0)
    text = "\n".join(table_markdown(report, [made], ("plane alone",)))
    assert "plane alone 1 (2 ×)" in text
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


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1234567, "1,234,567"), (99.44, "99.4"), (0.01234, "0.0123")]
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


def test_tables_keep_their_columns() -> None:
    assert markdown_table(("a", "b"), [("1|2", "3")])[2] == "| 1/2 | 3 |"


def test_every_scenario_is_a_command_with_its_parameters() -> None:
    for name in SCENARIOS:
        assert cli.parser().parse_args([name]).command == name
    parsed = cli.parser().parse_args(["campaign", "--faults", "drop=0.1,slow=0.2", "--devices", "5"])
    assert parsed.faults == {"drop": 0.1, "slow": 0.2}
    assert parsed.devices == 5


def test_a_table_goes_to_its_place_in_a_page() -> None:
    page = f"# Page\n{PLACE_START}\nold\n{PLACE_END}\nmore\n"
    once = replaced(page, "new\n")
    assert "old" not in once
    assert "new" in once
    assert once.endswith(f"{PLACE_END}\nmore\n")
    assert replaced(once, "new\n") == once
    with pytest.raises(BenchError, match="no <!-- table"):
        replaced("nothing", "new")
    assert PLACE_START in Path("docs/performance.md").read_text()


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
