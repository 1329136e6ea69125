# Augmentation of the published detection configs, from DETR: the shorter side is one of 480 to 800
# pixels, the longer one at most 1333; half of the images are cropped before.
scales = [(size, 1333) for size in range(480, 801, 32)]
ms_crop = [
    dict(type='RandomFlip', prob=0.5),
    dict(type='RandomChoice', transforms=[
        [dict(type='RandomChoiceResize', scales=scales, keep_ratio=True)],
        [
            dict(type='RandomChoiceResize', scales=[(400, 1333), (500, 1333), (600, 1333)],
                 keep_ratio=True),
            dict(type='RandomCrop', crop_type='absolute_range', crop_size=(384, 600),
                 allow_negative_crop=True),
            dict(type='RandomChoiceResize', scales=scales, keep_ratio=True),
        ],
    ]),
]
