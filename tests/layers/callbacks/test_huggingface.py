import json

import pytest
import torch
from torch import nn

from slab_det.errors import InputError
from slab_det.layers import PRepBN

transformers = pytest.importorskip('transformers')
pytest.importorskip('accelerate')
from slab_det.layers.callbacks.huggingface import PRepBNCallback  # noqa: E402

STEPS, END = 10, 8


class Model(nn.Module):
    """Notes the ratio that each training step runs at."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 6), PRepBN(6), nn.Linear(6, 1))
        self.ratios = []

    def forward(self, x, labels=None):
        if self.training:
            self.ratios.append(float(self.net[1].ratio))
        out = self.net(x)
        return dict(loss=(out.squeeze(-1) - labels).square().mean(), logits=out)


def data():
    generator = torch.Generator().manual_seed(1)
    return [
        dict(x=torch.randn(4, generator=generator), labels=torch.tensor(float(i % 3)))
        for i in range(16)
    ]


def trainer(folder, callback, model=None, **options):
    settings = dict(
        output_dir=str(folder),
        max_steps=STEPS,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        save_steps=4,
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    arguments = transformers.TrainingArguments(**{**settings, **options})
    return transformers.Trainer(
        model or Model(), arguments, train_dataset=data(), callbacks=[callback]
    )


def line(begin=0, start=1.0):
    """The linear fall by hand."""
    return [max(start * (1 - t / END), 0.0) for t in range(begin, STEPS)]


def test_the_ratio_falls_once_per_step(tmp_path):
    run = trainer(tmp_path, PRepBNCallback(end=0.8))
    run.train()
    assert run.model.ratios == pytest.approx(line())
    assert float(run.model.net[1].ratio) == 0
    logged = [entry['prepbn_ratio'] for entry in run.state.log_history if 'loss' in entry]
    # Logging comes after the step, where the ratio is that of the next one.
    assert logged == pytest.approx([*line()[1:], 0.0])


def test_gradient_accumulation_does_not_move_it(tmp_path):
    run = trainer(
        tmp_path,
        PRepBNCallback(end=0.8),
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    run.train()
    assert run.model.ratios == pytest.approx([ratio for ratio in line() for _ in range(2)])


@pytest.mark.parametrize('restore', [False, True])
def test_a_resumed_training_goes_on_along_the_same_line(tmp_path, restore):
    whole = Model()
    whole.net[1].set_ratio(0.9)
    trainer(tmp_path, PRepBNCallback(end=0.8), whole).train()
    saved = json.loads((tmp_path / 'checkpoint-4/trainer_state.json').read_text())
    assert saved['stateful_callbacks']['PRepBNCallback']['args'] == {'end': 0.8}

    resumed = trainer(
        tmp_path, PRepBNCallback(end=0.8), restore_callback_states_from_checkpoint=restore
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / 'checkpoint-4'))
    assert whole.ratios == pytest.approx(line(start=0.9))
    assert resumed.model.ratios == pytest.approx(line(4, start=0.9))
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value)


def test_another_length_at_resumption_is_refused(tmp_path):
    trainer(tmp_path, PRepBNCallback()).train()
    longer = trainer(tmp_path, PRepBNCallback(), max_steps=20)
    with pytest.raises(InputError, match='total_iters=20 differs from total_iters=10'):
        longer.train(resume_from_checkpoint=str(tmp_path / 'checkpoint-8'))


def test_a_checkpoint_without_the_callback_needs_a_start(tmp_path):
    class Nothing(transformers.TrainerCallback):
        pass

    trainer(tmp_path, Nothing()).train()
    checkpoint = str(tmp_path / 'checkpoint-4')
    with pytest.raises(InputError, match='start_ratio=None: the training resumes at iteration 4'):
        trainer(tmp_path, PRepBNCallback()).train(resume_from_checkpoint=checkpoint)
    run = trainer(tmp_path, PRepBNCallback(start_ratio=1.0))
    run.train(resume_from_checkpoint=checkpoint)
    assert run.model.ratios == pytest.approx(line(4))


def test_a_model_without_prepbn_is_refused(tmp_path):
    model = Model()
    model.net[1] = nn.BatchNorm1d(6)
    with pytest.raises(InputError, match='model=Model has no PRepBN'):
        trainer(tmp_path, PRepBNCallback(), model).train()
