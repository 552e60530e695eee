"""Robustness: what shifts and corruptions of images do to predictions, confidences and promises.

    found = calib.robustness.assess(prompt, task.test, backbone, corruptions=["blur"], severities=[1, 3, 5])
    print(calib.robustness.glance(found))
    found.find("calibprompt", "blur 3", "ece").kept  # relative robustness, with its interval

Everything in one call: `assess`, which returns `Robustness`; what is judged beside prompts is `PromptSystem`
(with a failure head) or any function from features to `Said`. Its parts: `corrupt`, `corrupted`,
`encode_corrupted` and the table `CORRUPTIONS`; `split_by_column` for real shifts; `judge` for features that
are already there; `relative_robustness`, `effective_robustness`, `sanity_baselines`. As text: `glance`,
`changes`, `findings`, `tables`; as a picture: `severity_picture`.
"""

from calib.core.rooms import offered
from calib.robustness.assess import assess
from calib.robustness.baselines import Baseline, blank_features, sanity_baselines
from calib.robustness.corrupted import corrupted, encode_corrupted
from calib.robustness.corruptions import CORRUPTIONS, SEVERITIES, Corruption, Draw, corrupt
from calib.robustness.draws import Draws
from calib.robustness.effective import Effective, effective_robustness
from calib.robustness.measures import MEASURES, Measure, relative_robustness
from calib.robustness.picture import severity_picture
from calib.robustness.protocol import Protocol, judge
from calib.robustness.result import Condition, Robustness, Row, Value
from calib.robustness.said import PromptSystem, Said
from calib.robustness.shift import Shift, split_by_column
from calib.robustness.tables import changes, glance, heading, tables
from calib.robustness.words import findings


def __dir__() -> list[str]:
    return __all__


__all__ = offered(globals())
