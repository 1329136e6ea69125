"""Two processes on one machine, started by the shell scripts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from slab_det.mm.datasets import make_shapes_dataset

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs/mini/mask-rcnn_slab-swin_mini_shapes.py'


def start(script, *words, cwd, **environment):
    variables = {
        **os.environ,
        'PYTHON': sys.executable,
        'PYTHONPATH': str(ROOT),
        'OMP_NUM_THREADS': '1',
        **environment,
    }
    return subprocess.run(
        ['bash', ROOT / 'tools' / script, *map(str, words)],
        cwd=cwd,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


def last_metrics(work_dir):
    return json.loads(max(Path(work_dir).glob('2*/2*.json')).read_text().splitlines()[-1])


@pytest.mark.slow
def test_two_processes_train_and_measure_as_one(tmp_path):
    make_shapes_dataset(str(tmp_path / 'data/shapes'), 8, 3, (96, 128))
    port = str(20000 + os.getpid() % 10000)
    brief = [
        '--cfg-options',
        'train_cfg.max_epochs=1',
        'train_cfg.val_interval=9',
        'train_dataloader.batch_size=2',
    ]
    done = start(
        'dist_train.sh',
        CONFIG,
        2,
        '--work-dir',
        'work',
        *brief,
        cwd=tmp_path,
        PORT=port,
        CUDA_VISIBLE_DEVICES='',
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if 'Epoch(train)' in line] or [done.stderr]
    assert '[1][2/2]' in lines[-1]  # 8 images in batches of 2 on 2 processes

    test = [CONFIG, 'work/epoch_1.pth']
    done = start(
        'dist_test.sh',
        *test,
        2,
        '--work-dir',
        'two',
        cwd=tmp_path,
        PORT=port,
        CUDA_VISIBLE_DEVICES='',
    )
    assert done.returncode == 0, done.stderr[-3000:]
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/test.py', *test, '--work-dir', 'one'],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'CUDA_VISIBLE_DEVICES': ''},
        check=False,
    )
    assert done.returncode == 0
    two, one = last_metrics(tmp_path / 'two'), last_metrics(tmp_path / 'one')
    keys = [key for key in one if key.startswith('coco/')]
    assert len(keys) == 12 and {key: two[key] for key in keys} == {key: one[key] for key in keys}


@pytest.mark.parametrize(
    'script, words',
    [
        ('dist_train.sh', ['config.py']),
        ('dist_test.sh', ['config.py', 'x.pth']),
        ('slurm_train.sh', ['partition', 'job', 'config.py']),
        ('dist_train.sh', ['config.py', 'two']),
    ],
)
def test_too_few_or_wrong_words_are_refused(tmp_path, script, words):
    done = start(script, *words, cwd=tmp_path)
    assert done.returncode == 2 and 'error: usage:' in done.stderr


def test_slurm_gets_one_task_per_gpu(tmp_path):
    (tmp_path / 'srun').write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    (tmp_path / 'srun').chmod(0o755)
    done = start(
        'slurm_train.sh',
        'gpu',
        'swin',
        'config.py',
        'work',
        '--amp',
        cwd=tmp_path,
        GPUS='4',
        SRUN_ARGS='--time=1 --exclusive',
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
    )
    words = done.stdout.split('\n')
    assert {
        '--partition=gpu',
        '--job-name=swin',
        '--ntasks=4',
        '--ntasks-per-node=4',
        '--gres=gpu:4',
        '--time=1',
        '--exclusive',
    } <= set(words)
    tail = words[words.index('config.py') : -1]
    assert tail == ['config.py', '--work-dir', 'work', '--launcher', 'slurm', '--amp']
