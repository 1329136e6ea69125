# What turns the training of a LayerNorm detector into one that ends without norm.
custom_imports = dict(imports=['slab_det'], allow_failed_imports=False)
custom_hooks = [
    dict(type='PRepBNHook', schedule='linear', end=0.8),
    dict(type='RandomStateHook'),
    # Calibration ends the training and sees images without padding: the weights must have been
    # trained with statistics that leave it out, see docs/padding.md.
    dict(type='ValidTokensHook'),
    # Before the first iteration it begins the RepBN branch at the affine map closest to the
    # LayerNorm.
    dict(type='BNCalibrationHook', fit_layer_norm=True),
]
