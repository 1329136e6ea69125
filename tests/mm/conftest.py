import pytest
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.runner import Runner

from tests.mm.tiny_runner import Count, Numbers, TinyModel


@pytest.fixture
def make_runner(tmp_path):
    """Build a runner; a new one resumes or loads what an earlier one of the test wrote."""
    count = iter(range(1000))

    def build(
        hooks=(),
        model=None,
        by_epoch=True,
        length=4,
        checkpoint=None,
        data=None,
        loader=None,
        sampler=None,
        val_interval=1,
        optim=None,
        seed=0,
        work_dir=None,
        validate=False,
        **kwargs,
    ):
        train_cfg = (
            dict(by_epoch=True, max_epochs=length, val_interval=val_interval)
            if by_epoch
            else dict(by_epoch=False, max_iters=length, val_interval=val_interval)
        )
        # A finite sampler makes mmengine's iteration loop sleep at the end of the data.
        sampler = sampler or ('DefaultSampler' if by_epoch else 'InfiniteSampler')
        loader_cfg = dict(
            dataset=data if data is not None else Numbers(),
            sampler=dict(type=sampler, shuffle=True),
            collate_fn=pseudo_collate,
            batch_size=2,
            num_workers=0,
        )
        loader_cfg.update(loader or {})
        val = {}
        if validate:
            val = dict(
                val_dataloader=dict(
                    dataset=Numbers(2),
                    sampler=dict(type='DefaultSampler', shuffle=False),
                    collate_fn=pseudo_collate,
                    batch_size=1,
                    num_workers=0,
                ),
                val_cfg=dict(),
                val_evaluator=Evaluator(Count()),
            )
        name = f'run{next(count)}'
        return Runner(
            model=model if model is not None else TinyModel(),
            work_dir=str(tmp_path / (work_dir or name)),
            train_dataloader=loader_cfg,
            train_cfg=train_cfg,
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9), **(optim or {})),
            default_hooks=dict(
                logger=dict(type='LoggerHook', interval=1),
                checkpoint=dict(type='CheckpointHook', **(checkpoint or dict(interval=-1))),
            ),
            custom_hooks=list(hooks),
            randomness=dict(seed=seed),
            experiment_name=f'{tmp_path.name}_{name}',
            **val,
            **kwargs,
        )

    return build
