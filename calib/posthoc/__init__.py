"""What is fitted on validation outputs: calibrators."""

from calib.core.rooms import offered
from calib.posthoc.scaling import fit_temperature


def __dir__() -> list[str]:
    return __all__


__all__ = offered(globals())
