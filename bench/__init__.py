"""The bench: simulated fleets that do what fleets do, scenarios, and other servers to be measured beside.

    otagate-bench SCENARIO …        one scenario against a gateway of its own, or against `--url`
    otagate-bench table             every figure of the README, beside its peers
    otagate-bench short             ratios with wide margins, in under two minutes
    otagate-bench peers             which other servers are here; `peers install` brings the rest

`scenarios/` says what is done and measured, `fleet.py` and `worker.py` drive the compiled devices
(`otagate.bench`) in processes of their own, `measure.py` reads clocks and /proc, `report.py` and
`plots.py` show it. Nothing is measured that a result does not also say under which circumstances.
"""
