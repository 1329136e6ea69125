# The detector of the ablation on the built-in data set: the Mask R-CNN of configs/mini. Norm,
# attention, windows, seed and budget are set by benchmarks/ablation.py.
_base_ = '../../../configs/mini/mask-rcnn_slab-swin_mini_shapes.py'
train_dataloader = dict(num_workers=0, persistent_workers=False, drop_last=True)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
