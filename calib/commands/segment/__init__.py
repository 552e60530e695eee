"""`calib segment`: a small network on images and masks: trained with mL1-ACE or without, judged, applied."""
