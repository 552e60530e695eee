from __future__ import annotations

import math

from calib.report.tables import COLUMNS, Cell, Difference, differences_table, format_value, results_table


def test_fractions_are_shown_in_percent_and_gaps_with_their_sign() -> None:
    values = {name: 0.1234 for _, name, _ in COLUMNS}
    table = results_table({"CE": values, "longer name": values | {"confidence_gap": -0.05, "nll": 1.5}})
    header, rule, first, second = table.splitlines()
    assert [len(line) for line in (rule, first, second)] == [len(header)] * 3
    assert [cell.strip() for cell in second.strip("|").split("|")] == [
        "longer name", "12.3", "12.3", "12.3", "12.3", "12.3", "1.500", "0.123", "-5.0",
    ]  # fmt: skip
    assert first.split("|")[-2].strip() == "+12.3"


def test_undefined_values_and_single_runs() -> None:
    assert format_value("ece", math.nan, 1, percent=True) == "n/a"
    assert format_value("ece", Cell(0.5, None), 1, percent=True) == "50.0"


def test_differences_show_their_interval() -> None:
    row = {name: Difference(-0.01, -0.02, 0.005, 0.95, 10) for _, name, _ in COLUMNS}
    assert "-1.0 [-2.0, +0.5]" in differences_table({"calibprompt": row})
    assert "-0.010 [-0.020, +0.005]" in differences_table({"calibprompt": row})
