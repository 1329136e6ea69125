"""Whatever writes the buffer ``ratio`` of a PRepBN, the forward pass computes what it says."""

import copy
import io
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.swa_utils import AveragedModel

from slab_det.layers import PRepBN, PRepBNScheduler, norms, prepbn_modules, set_ratio
from tests.processes import on_two_processes

C = 6


def network(ratio=1.0, seed=0):
    model = nn.Sequential(PRepBN(C), nn.Linear(C, C), PRepBN(C))
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith('running_var'):
            tensor.uniform_(0.5, 2, generator=generator)
        elif tensor.is_floating_point() and not name.endswith('ratio'):
            tensor.normal_(generator=generator)
    set_ratio(model, ratio)
    return model


def tokens():
    return torch.randn(2, 5, C, generator=torch.Generator().manual_seed(1))


def blend(norm, x, ratio):
    """The norm at inference by its formula."""
    mean, var = x.mean(-1, keepdim=True), x.var(-1, correction=0, keepdim=True)
    ln = (x - mean) / (var + norm.ln.eps).sqrt() * norm.ln.weight + norm.ln.bias
    bn = norm.repbn.bn
    rep = (x - bn.running_mean) / (bn.running_var + bn.eps).sqrt() * bn.weight + bn.bias
    return ratio * ln + (1 - ratio) * (rep + norm.repbn.eta * x)


def expected(model, ratio):
    return blend(model[2], model[1](blend(model[0], tokens(), ratio)), ratio)


def check(model, ratio):
    torch.testing.assert_close(model(tokens()), expected(model, ratio))
    assert [float(norm.ratio) for norm in prepbn_modules(model)] == [ratio] * 2


def each_norm(write):
    """Return what calls ``write(norm, ratio)`` for each norm of a model and returns the model."""

    def run(model, ratio):
        for norm in prepbn_modules(model):
            write(norm, ratio)
        return model

    return run


def load(model, ratio, assign=False):
    model.load_state_dict(network(ratio).state_dict(), assign=assign)
    return model


def averaged_model(model, ratio):
    mean = AveragedModel(model, use_buffers=True, avg_fn=lambda mean, new, count: new)
    mean.module(tokens())
    for _ in range(2):  # the first one copies the buffers, the second one averages them
        mean.update_parameters(network(ratio))
    return mean.module


def moving_average(model, ratio):
    ema = pytest.importorskip('timm.utils').ModelEmaV3(model, decay=0.0)
    ema.module(tokens())
    ema.update(network(ratio))
    return ema.module


WRITES = {
    'set_ratio': each_norm(lambda norm, ratio: norm.set_ratio(ratio)),
    'scheduler': lambda model, ratio: PRepBNScheduler(model, 1, start_ratio=ratio) and model,
    'fill_': each_norm(lambda norm, ratio: norm.ratio.fill_(ratio)),
    'data.copy_': each_norm(lambda norm, ratio: norm.ratio.data.copy_(torch.tensor(ratio))),
    'data': each_norm(lambda norm, ratio: setattr(norm.ratio, 'data', torch.tensor(ratio))),
    'numpy': each_norm(lambda norm, ratio: norm.ratio.numpy().fill(ratio)),
    'setattr': each_norm(lambda norm, ratio: setattr(norm, 'ratio', torch.tensor(ratio))),
    'load_state_dict': load,
    'load_state_dict(assign=True)': partial(load, assign=True),
    'AveragedModel': averaged_model,
    'ModelEmaV3': moving_average,
}


@pytest.mark.parametrize('before, after', [(1.0, 0.0), (0.0, 1.0), (0.5, 0.0), (1.0, 0.25)])
@pytest.mark.parametrize('write', WRITES.values(), ids=WRITES)
def test_evaluation_follows_whatever_writes_the_buffer(write, before, after):
    model = network(before).eval()
    check(model, before)
    check(write(model, after), after)


@pytest.mark.parametrize('before, after', [(1.0, 0.0), (0.0, 1.0), (0.5, 0.0), (1.0, 0.25)])
@pytest.mark.parametrize('write', WRITES.values(), ids=WRITES)
def test_training_follows_whatever_writes_the_buffer(write, before, after):
    model = network(before).train()
    for norm in prepbn_modules(model):
        norm.repbn.eval()  # normalises by statistics that the formula knows, too
    check(model, before)
    check(write(model, after), after)


def pickled(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


LOOKS = {
    'train and eval': lambda model: model.train().eval(),
    'eval in evaluation': lambda model: model.eval(),
    'a forward pass': lambda model: [model(tokens()), model][1],
    'to': lambda model: model.to(torch.float64),
    'half': lambda model: model.half().float(),
    'share_memory': lambda model: model.share_memory(),
    'deepcopy': copy.deepcopy,
    'pickle': pickled,
    'load_state_dict': lambda model: load(model, 0.0),
}


@pytest.mark.parametrize('look', LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize('before', [1.0, 0.5])
def test_what_is_compiled_follows_a_hidden_write_at_the_next_look(look, before):
    """A graph does not read the buffer; a write through ``.data`` leaves no trace."""
    model = network(before).eval()
    WRITES['data.copy_'](model, 0.0)
    model = look(model)
    compiled = torch.compile(model, backend='eager', fullgraph=True)
    x = tokens().to(model[1].weight.dtype)
    torch.testing.assert_close(compiled(x).float(), expected(model.float(), 0.0))


@pytest.fixture
def costly(monkeypatch):
    """Treat the CPU as a GPU, where reading a value waits; return the list of the values read."""
    monkeypatch.setattr(norms, '_FREE_TO_READ', ())
    reads, read = [], PRepBN.sync_ratio

    def counted(norm):
        reads.append(read(norm))
        return reads[-1]

    monkeypatch.setattr(PRepBN, 'sync_ratio', counted)
    return reads


def test_where_reading_waits_evaluation_reads_after_a_write_alone(costly):
    model = network(0.5).eval()
    costly.clear()
    model(tokens())
    check(model, 0.5)
    assert costly == []
    check(WRITES['fill_'](model, 0.0), 0.0)
    assert costly == [0.0, 0.0]
    check(WRITES['setattr'](model, 1.0), 1.0)
    check(model, 1.0)
    assert costly == [0.0, 0.0, 1.0, 1.0]


def test_where_reading_waits_a_hidden_write_is_seen_by_eval(costly):
    model = WRITES['data.copy_'](network(0.5).eval(), 0.0)
    check(model.eval(), 0.0)


@pytest.mark.parametrize('copied', [copy.deepcopy, pickled])
def test_where_reading_waits_a_copy_has_its_own_buffer(costly, copied):
    model = network(0.5).eval()
    other = copied(model)
    check(WRITES['fill_'](other, 0.0), 0.0)
    check(model, 0.5)


def test_where_reading_waits_training_does_not_read(costly):
    model = network(0.5).train()
    costly.clear()
    for ratio in (0.5, 0.25, 0.0):
        set_ratio(model, ratio)
        model(tokens()).sum().backward()
    assert costly == []


def test_where_reading_waits_tensors_of_inference_mode_are_read_by_eval(costly):
    with torch.inference_mode():
        model = network(0.5).eval()
        costly.clear()
        check(model, 0.5)
        assert costly == []
        check(WRITES['fill_'](model, 0.0).eval(), 0.0)


def test_functional_call_computes_the_ratio_that_it_is_given():
    model = network(1.0).eval()
    for ratio in (0.0, 0.5):
        state = {f'{index}.ratio': torch.tensor(ratio) for index in (0, 2)}
        found = torch.func.functional_call(model, state, (tokens(),))
        torch.testing.assert_close(found, expected(model, ratio))
    check(model, 1.0)


def test_vmap_over_an_ensemble():
    models = [network(0.5, seed).eval() for seed in range(3)]
    parameters, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to('meta')
    x = tokens()
    found = torch.vmap(lambda *state: torch.func.functional_call(base, state, (x,)))(
        parameters, buffers
    )
    torch.testing.assert_close(found, torch.stack([expected(model, 0.5) for model in models]))


def test_the_ratio_is_the_buffers_after_its_type_has_rounded_it():
    model = network(1.0).half().eval()
    set_ratio(model, 1 - 2**-13)
    assert [norm._phase for norm in prepbn_modules(model)] == ['layer_norm', 'layer_norm']
    assert [float(norm.ratio) for norm in prepbn_modules(model)] == [1.0, 1.0]


def test_a_training_compiles_three_graphs_whatever_its_length():
    model, counter = network().train(), CompileCounter()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    scheduler = PRepBNScheduler(model, 12, begin=2, end=10)
    for _ in range(12):
        compiled(tokens()).sum().backward()
        scheduler.step()
    assert counter.frame_count == 3


GRAPHS = {
    'export': lambda model, x: torch.export.export(model, (x,)).module(),
    'export, strict': lambda model, x: torch.export.export(model, (x,), strict=True).module(),
    'trace': torch.jit.trace,
    'make_fx': lambda model, x: make_fx(model)(x),
    'make_fx, fake': lambda model, x: make_fx(
        model, tracing_mode='fake', _allow_non_fake_inputs=True
    )(x),
}


@pytest.mark.filterwarnings('ignore::DeprecationWarning', 'ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('make', GRAPHS.values(), ids=GRAPHS)
@pytest.mark.parametrize('ratio', [0.0, 0.5, 1.0])
def test_graphs_of_a_model_in_evaluation(make, ratio):
    model = network(ratio).eval()
    torch.testing.assert_close(make(model, tokens())(tokens()), expected(model, ratio))


@pytest.mark.parametrize('training', [True, False])
def test_shapes_without_values(training):
    with torch.device('meta'):
        model = nn.Sequential(PRepBN(C), PRepBN(C)).train(training)
        assert model.half().float()(torch.empty(2, 5, C)).shape == (2, 5, C)
    with FakeTensorMode():
        model = nn.Sequential(PRepBN(C), PRepBN(C)).train(training)
        assert model(torch.empty(2, 5, C)).shape == (2, 5, C)


@pytest.mark.parametrize('assign', [True, False])
@pytest.mark.parametrize('ratio', [0.0, 0.5])
def test_a_meta_model_takes_the_ratio_that_it_loads(assign, ratio):
    model = network().eval().to('meta')
    if not assign:
        model.to_empty(device='cpu')
    check(load(model, ratio, assign), ratio)


def _receive(rank):
    model = network(float(rank)).eval()
    model(tokens())
    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)
    check(model, 0.0)
    WRITES['set_ratio'](model, float(rank))
    wrapped = nn.parallel.DistributedDataParallel(model)  # copies what the first process has
    check(wrapped.module, 0.0)


def test_a_broadcast_ratio_is_followed():
    on_two_processes(_receive)
