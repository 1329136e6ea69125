# 12 epochs of AdamW. No decay on norms, embeddings of positions and position biases, as published, nor on
# the positional encodings of linear attention, which the published configs leave out.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # norm_decay_mult knows torch's norms, under any name, but not the eta of RepBN. Keys are parts of
    # parameter names.
    paramwise_cfg=dict(
        norm_decay_mult=0.0,
        custom_keys={
            'norm': dict(decay_mult=0.0),
            'pos_embed': dict(decay_mult=0.0),
            'positional_encoding': dict(decay_mult=0.0),
            'relative_position_bias_table': dict(decay_mult=0.0),
        }))
