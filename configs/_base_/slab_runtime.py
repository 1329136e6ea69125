# What every SLAB configuration shares beside mmdet's own runtime settings.
_base_ = 'mmdet::_base_/default_runtime.py'
custom_imports = dict(imports=['slab_det'], allow_failed_imports=False)
custom_hooks = [
    # The share of the LayerNorm branch falls to 0 over the first four fifths of the training.
    dict(type='PRepBNHook', schedule='linear', end=0.8),
    dict(type='RandomStateHook'),
]
# A checkpoint gets its name when all of it is written.
default_hooks = dict(checkpoint=dict(backend_args=dict(backend='whole')))
