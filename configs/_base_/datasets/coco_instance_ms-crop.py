_base_ = ['mmdet::_base_/datasets/coco_instance.py', './ms-crop.py']
train_pipeline = [*_base_.train_pipeline[:2], *_base_.ms_crop, _base_.train_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
