"""Dataset reliability histograms: their values by hand, and what is drawn."""

import pytest
import torch

from calib.core.binning import BinStatistics
from calib.metrics import bins_by_unit
from calib.report.unit_reliability import MOST, unit_reliability_figure, unit_reliability_values


def two_sites():
    """Site A: confidence 0.75, all right; site B: 0.75, half right; together 3 of 4: calibrated."""
    confidence = torch.full((4,), 0.75)
    correct = torch.tensor([True, True, True, False])
    return bins_by_unit(confidence, correct, ["A", "A", "B", "B"], n_bins=4)


def test_what_cancels_over_sites_is_seen():
    names, stats = two_sites()
    assert names == ["A", "B"]
    values = unit_reliability_values(stats)
    assert values["errors"]["pooled"] == {"ece": 0.0, "ace": 0.0, "mce": 0.0}
    assert values["errors"]["mean_of_units"]["ece"] == pytest.approx(0.25)
    assert [row[3] for row in values["histogram"]] == [0, 1, 0, 1]  # accuracies 1/2 and 1
    assert values["mean_value"] == [None, None, None, 0.75]
    assert values["counts"] == [0.0, 0.0, 0.0, 4.0]


def test_the_picture_shows_a_share_of_the_units_where_there_are_any():
    _, stats = two_sites()
    figure = unit_reliability_figure({"test": stats, "$5": stats}, unit="site", counted="Cases")
    image = figure.axes[0].images[0].get_array()
    assert image.compressed().tolist() == [0.5, 0.5]  # the rest is empty, not 0
    assert "2 sites: ACE 25.0 %" in figure.axes[0].texts[0].get_text()
    assert [axes.get_title() for axes in figure.axes[:2]] == ["test", "$5"]
    assert figure.axes[2].get_ylabel() == "Cases"


def test_nothing_and_too_much_are_refused():
    _, stats = two_sites()
    with pytest.raises(ValueError, match="Expected 1 to 8 panels"):
        unit_reliability_figure({})
    with pytest.raises(ValueError, match="Expected 1 to 8 panels"):
        unit_reliability_figure({str(number): stats for number in range(MOST + 1)})
    with pytest.raises(ValueError, match="There is no unit"):
        unit_reliability_values(BinStatistics(*(each[:0] for each in stats)))
    with pytest.raises(ValueError, match="Expected the unit of each of 4 predictions, got 1"):
        bins_by_unit(torch.full((4,), 0.5), torch.ones(4, dtype=torch.bool), ["A"])
