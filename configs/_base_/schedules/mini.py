# Short training from random weights on a CPU: warm-up, then a cosine down to nearly 0.
max_epochs = 6
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='SLABOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=2.5e-3, weight_decay=0.05),
    paramwise_cfg=dict(bias_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0, norm_type=2))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=100, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=max_epochs, begin=0, end=max_epochs, eta_min=1e-5,
         by_epoch=True, convert_to_iter_based=True),
]
