"""Running statistics of norms: calibration and the fit to a LayerNorm."""

from .calibration import CalibrationReport, calibrate_batch_norm
from .layer_norm_fit import fit_repbn_to_layer_norm
from .passes import check_run, frozen_parameters, run_watched
from .sites import (
    NormSite,
    Statistics,
    get_statistics,
    modes_kept,
    norm_sites,
    put_statistics,
    sites_to_calibrate,
)

__all__ = [
    'CalibrationReport',
    'NormSite',
    'Statistics',
    'calibrate_batch_norm',
    'check_run',
    'fit_repbn_to_layer_norm',
    'frozen_parameters',
    'get_statistics',
    'modes_kept',
    'norm_sites',
    'put_statistics',
    'run_watched',
    'sites_to_calibrate',
]
