"""What is fitted on validation outputs: calibrators."""

from calib.posthoc.scaling import fit_temperature
