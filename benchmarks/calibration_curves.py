"""The picture of docs/calibration.md, drawn from its table: NLL and ECE against images per class.

python benchmarks/calibration_curves.py
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.figure import Figure

PAGE = Path(__file__).parents[1] / "docs" / "calibration.md"
LINES = {  # column of the table: how it is drawn
    "zero-shot": (":", "0.4"),
    "CE": ("--", "#b35806"),
    "CE calibrated, `scale`": ("-.", "#5e3c99"),
    "CE calibrated, default": ("-", "#1a6fb0"),
}
FRAME = {"Fundus": ((1.1, 2.6), (0.0, 50.0))}  # where zero-shot, far off, would hide the rest


def table(page: Path) -> list[list[str]]:
    """Return the cells of the table by shots per class, its header first."""
    lines = page.read_text(encoding="utf-8").split("## By shots per class")[1].split("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("|")]
    return [rows[0], *rows[2:]]


def draw(rows: list[list[str]]) -> Figure:
    """Return the figure: a column for each task, NLL above ECE."""
    header, *cells = rows
    tasks = list(dict.fromkeys(row[0] for row in cells))
    figure = Figure(figsize=(11, 4.6))
    axes = figure.subplots(2, len(tasks), sharex=True)
    for column, task in enumerate(tasks):
        mine = [row for row in cells if row[0] == task]
        shots = [int(row[1]) for row in mine]
        for place, part, name in ((0, 2, "NLL"), (1, 1, "ECE %")):
            ax = axes[place, column]
            for label, (style, colour) in LINES.items():
                values = [float(row[header.index(label)].split(" / ")[part]) for row in mine]
                ax.plot(shots, values, style, color=colour, marker="o", ms=3, label=label.replace("`", ""))
            if task in FRAME:
                ax.set_ylim(*FRAME[task][place])
            if column == 0:
                ax.set_ylabel(name)
        axes[0, column].set_title(task, fontsize=10)
        axes[1, column].set_ylim(bottom=0)
        axes[1, column].set_xscale("log", base=2)
        axes[1, column].set_xticks(shots, list(map(str, shots)))
        axes[1, column].set_xlabel("images per class")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), ncol=4, loc="upper center", fontsize=9, frameon=False
    )
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    return figure


if __name__ == "__main__":
    draw(table(PAGE)).savefig(PAGE.with_name("calibration_by_shots.png"), dpi=110)
