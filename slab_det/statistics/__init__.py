"""Running statistics of norms: calibration and the fit to a LayerNorm."""
