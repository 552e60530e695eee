from __future__ import annotations

import math

import pytest

from calib.metrics import METRICS, Column, columns_of
from calib.report.tables import Cell, Difference, differences_table, format_cell, metrics_table, results_table


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_fractions_are_shown_in_percent_and_gaps_with_their_sign() -> None:
    values = dict.fromkeys(columns_of(METRICS), 0.1234)
    table = results_table({"CE": values, "longer name": values | {"confidence_gap": -0.05, "nll": 1.5}})
    header, rule, first, second = table.splitlines()
    assert [len(line) for line in (rule, first, second)] == [len(header)] * 3
    titles = [column.title for column in columns_of(METRICS).values()]
    assert cells(header) == ["method", *("ECE % (chance)" if title == "ECE %" else title for title in titles)]
    shown = dict(zip(cells(header), cells(second), strict=True))
    assert (shown["method"], shown["accuracy %"], shown["Brier"]) == ("longer name", "12.3", "0.123")
    assert (shown["NLL"], shown["conf. - acc. %"]) == ("1.500", "-5.0")
    of_first = dict(zip(cells(header), cells(first), strict=True))
    assert of_first["conf. - acc. %"] == "+12.3"


def test_columns_stand_in_their_order_and_others_behind_them() -> None:
    places = [column.order for column in columns_of(METRICS).values()]
    assert places == sorted(places)


def test_the_ece_has_that_of_a_calibrated_model_behind_it() -> None:
    rows = {
        "one run": {"ece": 0.054, "null_ece": 0.031},
        "seeds": {"ece": Cell(0.054, sd=0.01), "null_ece": Cell(0.031, sd=0.001)},
        "of an older version": {"ece": 0.054},
    }
    shown = [cells(line)[4] for line in results_table(rows).splitlines()]
    assert shown[0] == "ECE % (chance)"
    assert shown[2:] == ["5.4 (3.1)", "5.4 ± 1.0 (3.1)", "5.4 (n/a)"]
    table = metrics_table("", {"ece": columns_of(METRICS)["ece"]}, {"mine": {"ece": 0.054}}, difference=True)
    assert [cells(line) for line in (table.splitlines()[0], table.splitlines()[-1])] == [
        ["", "ECE %"],
        ["mine", "+5.4"],
    ]


def test_undefined_values_and_single_runs() -> None:
    ece = Column("ECE %")
    for nothing in (math.nan, None, Cell(None), Cell(math.nan, sd=0.1)):
        assert format_cell(ece, nothing) == "n/a"
    assert format_cell(ece, Cell(0.5, None)) == "50.0"
    assert format_cell(ece, Cell(0.5, math.nan)) == "50.0"
    assert cells(metrics_table("", {"ece": ece}, {"old run": {}}).splitlines()[-1]) == ["old run", "n/a"]


@pytest.mark.parametrize(
    ("column", "cell", "difference", "text"),
    [
        (Column("ECE %"), Cell(0.0614, sd=0.011), False, "6.1 ± 1.1"),
        (Column("gap %", signed=True), Cell(0.0614, sd=0.011), False, "+6.1 ± 1.1"),
        (Column("AURC %", decimals=2), Cell(0.25, interval=(0.125, 0.5)), False, "25.00 [12.50, 50.00]"),
        (Column("NLL", decimals=3), Cell(-0.25, interval=(-0.5, 0.125)), True, "-0.250 [-0.500, +0.125]"),
    ],
)
def test_spread_interval_and_difference(column: Column, cell: Cell, difference: bool, text: str) -> None:
    assert format_cell(column, cell, difference=difference) == text


def test_differences_show_their_interval() -> None:
    row = dict.fromkeys(columns_of(METRICS), Difference(-0.01, -0.02, 0.005, 0.95, 10))
    assert "-1.0 [-2.0, +0.5]" in differences_table({"calibprompt": row})
    assert "-0.010 [-0.020, +0.005]" in differences_table({"calibprompt": row})
    del row["nll"]
    assert "NLL" not in differences_table({"calibprompt": row})
