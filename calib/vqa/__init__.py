"""Clinical visual question answering: questions and answers as tables, perturbations, models that answer."""

from calib.core.rooms import offered
from calib.vqa.evaluation import Evaluation, Protocol, evaluate
from calib.vqa.tables import (
    Items,
    Outputs,
    join_items,
    join_outputs,
    originals,
    read_items,
    read_outputs,
)


def __dir__() -> list[str]:
    return __all__


__all__ = offered(globals())
