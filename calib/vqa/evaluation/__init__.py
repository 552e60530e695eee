"""What answers and their uncertainties are worth: tables, sentences, and a page made of them."""

from calib.vqa.evaluation.protocol import Protocol
from calib.vqa.evaluation.result import Evaluation
from calib.vqa.evaluation.whole import evaluate
