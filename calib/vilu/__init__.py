"""ViLU: a small head on frozen features that says which predictions are likely wrong, and why."""

from calib.vilu.explain import Explanation
from calib.vilu.head import ViLU, mcp_log_odds
from calib.vilu.official import read_official, write_official
