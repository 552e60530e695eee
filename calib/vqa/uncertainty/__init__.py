"""Uncertainty of answers: methods by name, each a function of what was recorded of the answers."""

from calib.vqa.uncertainty.evidence import Evidence, Missing
from calib.vqa.uncertainty.registry import METHODS, PANEL, Method, Scored, score
