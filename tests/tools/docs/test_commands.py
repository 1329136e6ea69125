from pathlib import Path

import pytest

from tools.docs.commands import (
    DocError,
    anchors,
    check_command,
    check_links,
    check_mark,
    commands_of,
)

ROOT = Path(__file__).parents[3]


def page(tmp_path, text):
    path = tmp_path / 'page.md'
    path.write_text(text)
    return path


def found(tmp_path, text):
    return list(commands_of(page(tmp_path, text), 'page.md'))


def test_commands_of_bash_blocks_with_variables_comments_and_long_lines(tmp_path):
    commands = found(
        tmp_path,
        """
```python
not a command
```
```bash
config=a.py
# a comment
python tools/train.py $config --resume   # another
SHAPES_ROOT=x python tools/test.py ${config} \\
    b.pth > log.txt
cd here && git pull
```
<!-- check: run a.py=b.py X=data/shapes -->
```bash
export X_ROOT=X
python tools/print_config.py a.py
```
""",
    )
    assert [command.words for command in commands] == [
        ['python', 'tools/train.py', 'a.py', '--resume'],
        ['python', 'tools/test.py', 'a.py', 'b.pth'],
        ['cd', 'here'],
        ['git', 'pull'],
        ['export', 'X_ROOT=X'],
        ['python', 'tools/print_config.py', 'a.py'],
    ]
    assert [command.line for command in commands] == [8, 9, 11, 11, 15, 16]
    assert commands[1].environment == dict(SHAPES_ROOT='x')
    assert [command.mark for command in commands] == [''] * 4 + ['run'] * 2
    instead = commands[-1].stand_ins()
    assert instead.words[-1] == 'b.py' and instead.environment == dict(X_ROOT='data/shapes')
    assert commands[-1].words[-1] == 'a.py'


def test_an_open_quote_is_not_a_command(tmp_path):
    with pytest.raises(DocError, match='page.md:2: .* is not a shell command'):
        found(tmp_path, "```bash\npython 'open\n```\n")


@pytest.mark.parametrize(
    'line',
    [
        'python tools/make_dataset.py data/shapes --train 4 --layout coco',
        'python tools/train.py CONFIG --cfg-options a.b=1',
        'python tools/train.py -h',
        'bash tools/dist_train.sh CONFIG 8 --amp',
        'bash tools/dist_test.sh CONFIG CHECKPOINT 8 --out a.pkl',
        'bash tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR --amp',
        'bash tools/quickstart.sh',
        'pip install -r requirements/onnx.txt',
        'mim train slab_det mask-rcnn_slab-swin-t_fpn_1x_coco.py --gpus 1',
    ],
)
def test_commands_that_work_pass(tmp_path, line):
    (command,) = found(tmp_path, f'```bash\n{line}\n```\n')
    check_command(command, ROOT)


@pytest.mark.parametrize(
    'line, words',
    [
        ('python tools/nothing.py', 'tools/nothing.py does not exist'),
        (
            'python tools/train.py configs/slab_swin/none.py',
            'configs/slab_swin/none.py does not exist',
        ),
        ('pip install -r requirements/none.txt', 'requirements/none.txt does not exist'),
        ('python tools/train.py CONFIG --faster', 'unrecognized arguments: --faster'),
        ('python tools/train.py', 'the following arguments are required: config'),
        ('bash tools/dist_train.sh CONFIG', 'dist_train.sh takes at least 2 arguments'),
        ('bash tools/dist_train.sh CONFIG 8 --nothing', 'unrecognized arguments: --nothing'),
        ('bash tools/slurm_train.sh P J CONFIG', 'takes at least 4 arguments'),
        ('mim train slab_det none.py', 'no config is called none.py'),
        ('mim download slab_det', 'expected mim train'),
        ('frobnicate --all', 'frobnicate is not known'),
    ],
)
def test_commands_that_would_fail_are_named_with_their_line(tmp_path, line, words):
    (command,) = found(tmp_path, f'```bash\n{line}\n```\n')
    with pytest.raises(DocError) as error:
        check_command(command, ROOT)
    assert str(error.value).startswith('page.md:2: ') and words in str(error.value)


@pytest.mark.parametrize(
    'mark',
    [
        'run',
        'run CONFIG=configs/a.py',
        'as README.md tests/tools/docs/test_commands.py',
        'parse it takes days',
    ],
)
def test_a_block_says_how_its_commands_are_proved(tmp_path, mark):
    (command,) = found(
        tmp_path, f'<!-- check: {mark} -->\n```bash\npython tools/train.py CONFIG\n```\n'
    )
    check_mark(command, ROOT)


@pytest.mark.parametrize('line', ['pip install mmdet', 'bash tools/dist_train.sh CONFIG 8'])
def test_what_is_not_ours_or_needs_a_cluster_needs_no_proof(tmp_path, line):
    (command,) = found(tmp_path, f'```bash\n{line}\n```\n')
    check_mark(command, ROOT)


@pytest.mark.parametrize(
    'mark, words',
    [
        ('', 'does not say how it is proved'),
        ('<!-- check: ran -->', 'does not say how it is proved'),
        ('<!-- check: as -->', "the mark 'as' says no more"),
        ('<!-- check: parse -->', "the mark 'parse' says no more"),
        ('<!-- check: as tests/none.py -->', 'tests/none.py, which is to run it, does not exist'),
        ('<!-- check: run CONFIG -->', 'takes TEXT=INSTEAD, not CONFIG'),
    ],
)
def test_a_block_that_does_not_say_so_is_a_fault(tmp_path, mark, words):
    for line in ('python tools/train.py CONFIG', 'mim train slab_det a.py'):
        (command,) = found(tmp_path, f'{mark}\n```bash\n{line}\n```\n')
        with pytest.raises(DocError, match=words):
            check_mark(command, ROOT)


def test_links_must_lead_somewhere(tmp_path):
    (tmp_path / 'other.md').write_text('# A heading, `code` and [link](x)\n## Twice\n## Twice\n')
    path = page(
        tmp_path,
        '[a](other.md) [b](other.md#a-heading-code-and-link) '
        '[c](https://example.org/x) [d](#here) [e](none.md) [f](other.md#nowhere)\n# Here\n'
        '```\n[g](in_code.md)\n```\n',
    )
    assert list(check_links(path, tmp_path)) == [
        'page.md: the link none.md leads nowhere',
        'page.md: other.md has no heading #nowhere',
    ]
    assert anchors(tmp_path / 'other.md') == {'a-heading-code-and-link', 'twice', 'twice-1'}
