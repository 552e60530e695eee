"""The report in a browser: the slider moves, no script runs but its own, details open on paper."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from test_report_page import said

import calib

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="there is no Chromium on this machine"),
]
# Moves the slider as a person does, and writes down what the page then says.
MOVES = """
<script>
const slider = document.getElementById("review-slider");
const seen = [];
for (const place of [slider.value, slider.min, slider.max, 7]) {
  slider.value = place;
  slider.dispatchEvent(new Event("input"));
  seen.push(["threshold", "workload", "error", "caught"].map((each) =>
    document.getElementById("review-" + each).textContent).concat(
    [document.getElementById("review-cursor").getAttribute("x1"), slider.getAttribute("aria-valuetext")]));
}
dispatchEvent(new Event("beforeprint"));
const opened = [...document.querySelectorAll("details")].every((each) => each.open);
dispatchEvent(new Event("afterprint"));
const closed = [...document.querySelectorAll("details")].every((each) => !each.open);
const out = document.createElement("pre");
out.id = "seen";
out.textContent = JSON.stringify([seen, opened, closed]);
document.body.append(out);
</script>
"""


def shown(page: Path, folder: Path) -> str:
    """Return the page as the browser holds it once its scripts have run."""
    assert BROWSER is not None
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={folder / 'profile'}", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout


def test_the_slider_says_what_another_threshold_would_do(tmp_path: Path) -> None:
    predictions = said(80)
    page = calib.report(predictions, tmp_path / "report.html", n_resamples=40)
    text = page.read_text(encoding="utf-8")
    unguarded = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    moved = tmp_path / "moved.html"
    moved.write_text(unguarded.replace("</body>", f"{MOVES}</body>"), encoding="utf-8")
    found = re.search(r'<pre id="seen">(.*?)</pre>', shown(moved, tmp_path), flags=re.DOTALL)
    assert found is not None
    seen, opened, closed = json.loads(html.unescape(found.group(1)))
    doubt, wrong = 1 - predictions.confidence, predictions.failure
    order = doubt.sort().values
    start = int(torch.searchsorted(order, order[round(0.8 * 80) - 1])) + 1
    for (threshold, workload, error, caught, x, spoken), k in zip(seen, (start, 1, 80, 8), strict=True):
        inside = doubt <= order[k - 1]
        errors = int(wrong[inside].sum())
        assert float(threshold) == pytest.approx(float(order[k - 1]), rel=1e-4)
        assert workload == f"{80 - k} of 80 ({100 * (80 - k) / 80:.1f} %)"
        assert error.startswith(f"{errors} of {k} ({100 * errors / k:.1f} %) [")
        assert caught.startswith(f"{int(wrong.sum()) - errors} of {int(wrong.sum())} ")
        assert float(x) == pytest.approx(48 + (344 - 48) * k / 80, abs=0.1)
        assert workload in spoken
    assert opened
    assert closed


def test_the_policy_of_the_page_lets_its_own_script_run_and_no_other(tmp_path: Path) -> None:
    page = calib.report(said(), tmp_path / "report.html", n_resamples=40)
    text = page.read_text(encoding="utf-8")
    assert "aria-valuetext" in shown(page, tmp_path)  # set by the script of the page
    foreign = tmp_path / "foreign.html"
    foreign.write_text(
        text.replace("</body>", "<script>document.title = 'taken over'</script></body>"), encoding="utf-8"
    )
    dumped = shown(foreign, tmp_path)
    assert "<title>taken over" not in dumped
    assert "<title>mine on toy" in dumped
