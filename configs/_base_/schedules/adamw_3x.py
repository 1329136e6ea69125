# 36 epochs of AdamW.
_base_ = './adamw_1x.py'
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=500, by_epoch=False),
    dict(type='MultiStepLR', begin=0, end=max_epochs, milestones=[27, 33], gamma=0.1,
         by_epoch=True),
]
