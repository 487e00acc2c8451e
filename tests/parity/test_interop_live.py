"""State and parameters carried between the real optimizers of torch and the presets, in the middle of training."""

import contextlib
import copy
import functools
import importlib
import io
import warnings
from unittest import mock

import configs
import jax
import jax.numpy as jnp
import numpy as np
import ours
import peers
import problem
import pytest
from flax import linen, nnx
from helpers import x64

from belief_optax import interop, presets

if peers.MISSING:
  pytest.skip('the real packages are not here: see `make parity`', allow_module_level=True)
torch = importlib.import_module('torch')
pytestmark = pytest.mark.parity

HALF = problem.STEPS // 2
ORDER = ('matrix', 'kernel', 'vector')  # of the parameters of the optimizer of torch
NOT_TORCH = ('adabelief-tf', 'bert-tensorflow', 'optax')
CONFIGS = [c for c in configs.CONFIGS if c.package not in NOT_TORCH and 'float64' in c.dtypes and c.is_preset]
OTHERS = [c for c in configs.CONFIGS if not c.is_preset]


@pytest.fixture(autouse=True)
def double():
  """Everything in float64, also what packages cast with `.float()` or keep in torch's default dtype."""
  default = torch.get_default_dtype()
  torch.set_default_dtype(torch.float64)
  silent = contextlib.redirect_stdout(io.StringIO())
  with x64(), silent, mock.patch.object(torch.Tensor, 'float', torch.Tensor.double), warnings.catch_warnings():
    warnings.simplefilter('ignore')  # most of the packages are older than torch
    yield
  torch.set_default_dtype(default)


class Peer:
  """A real optimizer with its parameters."""

  def __init__(self, config, params=None):
    self.config = config
    params = problem.tree(problem.PARAMS.astype(float), config.complex_) if params is None else params
    self.params = {name: torch.nn.Parameter(torch.tensor(np.asarray(params[name]))) for name in ORDER}
    self.optimizer = peers._torch_optimizer(config, self.params)

  def train(self, start, stop):
    for t in range(start, stop):
      for group in self.optimizer.param_groups:
        group['lr'] = float(problem.RATES[self.config.rates][t]) if self.config.rates else group['lr']
      for name, g in problem.tree(problem.GRADS[t].astype(float), self.config.complex_).items():
        self.params[name].grad = torch.tensor(g)
      self.optimizer.step()
    return self.arrays()

  def load(self, state_dict):
    # RAdamLegacy's own method makes the moments float32.
    method = torch.optim.Optimizer.load_state_dict if 'RAdamLegacy' in self.config.optimizer else None
    (method or type(self.optimizer).load_state_dict)(self.optimizer, tensors(state_dict))

  def arrays(self):
    return {name: p.detach().numpy().copy() for name, p in self.params.items()}


@functools.partial(jax.jit, static_argnums=0)
def _descend(tx, params, state, grads):
  def step(carry, g):
    params, state = carry
    updates, state = tx.update(g, state, params)
    return (jax.tree.map(jnp.add, params, updates), state), None

  return jax.lax.scan(step, (params, state), grads)[0]


def descend(config, params, state, start, stop):
  """Steps of the preset."""
  grads = problem.tree(problem.GRADS[start:stop].astype(float), config.complex_)
  return _descend(ours.preset(config), params, state, grads)


def error(actual, expected):
  """The largest difference relative to the largest parameter."""
  actual, expected = problem.flat(actual), problem.flat(expected)
  assert np.isfinite(expected).all()
  return np.abs(actual - expected).max() / np.abs(expected).max()


def tensors(state_dict):
  convert = lambda value: torch.from_numpy(value) if isinstance(value, np.ndarray) else value
  state = {i: {name: convert(value) for name, value in entry.items()} for i, entry in state_dict['state'].items()}
  return {**state_dict, 'state': state}


@pytest.mark.parametrize('config', CONFIGS, ids=lambda config: config.name)
def test_training_goes_on(config):
  """25 steps there and 25 here, and the other way round, are 50 steps there."""
  there, tx = Peer(config), ours.preset(config)
  half = there.train(0, HALF)
  state_dict = copy.deepcopy(there.optimizer.state_dict())
  expected = there.train(HALF, problem.STEPS)

  state = interop.load_state(state_dict, tx, half, ORDER, count=HALF)
  params, _ = descend(config, half, state, HALF, problem.STEPS)
  assert error(params, expected) < 1e-12

  start = problem.tree(problem.PARAMS.astype(float), config.complex_)
  params, state = descend(config, start, tx.init(start), 0, HALF)
  likes = ['optimizer', 'state_dict', 'nothing']
  if config.package == 'pytorch-pretrained-bert':
    likes.remove('nothing')  # its param_groups hold an object
  if not state.slots:
    likes.remove('state_dict')
  for like in likes:
    back = Peer(config, params)
    given = {'optimizer': back.optimizer, 'state_dict': state_dict, 'nothing': None}[like]
    back.load(interop.dump_state(state, tx, params, ORDER, given))
    assert error(back.train(HALF, problem.STEPS), expected) < 1e-12, like


@pytest.mark.parametrize('config', OTHERS, ids=lambda config: config.name)
def test_a_state_that_is_not_known_is_refused(config):
  there = Peer(config)
  params = there.train(0, 2)
  with pytest.raises(ValueError, match='no optimizer of torch'):
    interop.load_state(there.optimizer.state_dict(), ours.preset(config), params, ORDER, count=2)


# A net of torch, in linen and in nnx: its real gradients are those of the same function.

TOKENS = np.random.RandomState(0).randint(7, size=(5, 6))
TARGETS = np.random.RandomState(1).standard_normal((5, 2))


def torch_net():
  class Net(torch.nn.Module):
    def __init__(self):
      super().__init__()
      self.fc = torch.nn.Linear(3, 2)  # not the order of the leaves in JAX, nor of `LAYERS`
      self.emb = torch.nn.Embedding(7, 4)
      self.conv = torch.nn.Conv1d(4, 3, 2)
      self.norm = torch.nn.LayerNorm(3)

    def forward(self, tokens):
      x = self.conv(self.emb(tokens).swapaxes(1, 2)).swapaxes(1, 2)
      return self.fc(torch.tanh(self.norm(x)).mean(1))

  torch.manual_seed(0)
  return Net()


class Linen(linen.Module):
  @linen.compact
  def __call__(self, tokens):
    x = linen.Conv(3, (2,), padding='VALID')(linen.Embed(7, 4)(tokens))
    return linen.Dense(2)(jnp.tanh(linen.LayerNorm(epsilon=1e-5)(x)).mean(1))


class Nnx(nnx.Module):
  def __init__(self):
    rngs = nnx.Rngs(0)
    kwargs = {'rngs': rngs, 'param_dtype': float}
    self.embed, self.dense = nnx.Embed(7, 4, **kwargs), nnx.Linear(3, 2, **kwargs)
    self.conv = nnx.Conv(4, 3, (2,), padding='VALID', **kwargs)
    self.norm = nnx.LayerNorm(3, epsilon=1e-5, **kwargs)

  def __call__(self, tokens):
    return self.dense(jnp.tanh(self.norm(self.conv(self.embed(tokens)))).mean(1))


def linen_net():
  net = Linen()
  params = jax.tree.map(lambda x: x.astype(float), net.init(jax.random.key(0), TOKENS)['params'])
  layers = {'emb': 'Embed_0', 'conv': 'Conv_0', 'norm': 'LayerNorm_0', 'fc': 'Dense_0'}
  return params, layers, lambda params: net.apply({'params': params}, TOKENS)


def nnx_net():
  graph, params = nnx.split(Nnx())
  layers = {'emb': 'embed', 'conv': 'conv', 'norm': 'norm', 'fc': 'dense'}
  return params, layers, lambda params: nnx.merge(graph, params)(TOKENS)


def train_torch(net, optimizer, steps):
  for _ in range(steps):
    optimizer.zero_grad()
    torch.square(net(torch.tensor(TOKENS)) - torch.tensor(TARGETS)).sum().backward()
    optimizer.step()


def train_jax(forward, tx, params, state, steps):
  @jax.jit
  def step(params, state):
    grads = jax.grad(lambda params: jnp.square(forward(params) - TARGETS).sum())(params)
    updates, state = tx.update(grads, state, params)
    return jax.tree.map(jnp.add, params, updates), state

  for _ in range(steps):
    params, state = step(params, state)
  return params, state


def worst(actual, expected):
  largest = max(float(x.abs().max()) for x in expected.values())
  return max(float((torch.as_tensor(actual[name]) - x).abs().max()) for name, x in expected.items()) / largest


@pytest.mark.parametrize('make_net', [linen_net, nnx_net])
@pytest.mark.parametrize(
  ('peer', 'tx'),
  [
    (('torch', '2.13.0', 'torch.optim:Adam'), presets.torch.adam(0.02, eps=1e-3)),
    (
      ('adabelief-pytorch', '0.2.1', 'adabelief_pytorch.AdaBelief:AdaBelief'),
      presets.adabelief_pytorch.adabelief(0.02, eps=1e-3),
    ),
  ],
  ids=['adam', 'adabelief'],
)
def test_a_net_goes_on(make_net, peer, tx):
  make = functools.partial(peers.load(*peer), lr=0.02, eps=1e-3)
  net = torch_net()
  optimizer = make(net.named_parameters())
  params, layers, forward = make_net()
  names = interop.flax_names(layers, params)
  start = copy.deepcopy(net.state_dict())
  train_torch(net, optimizer, HALF)
  half, state_dict = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
  train_torch(net, optimizer, HALF)
  expected = net.state_dict()

  there = interop.load_params(half, params, names)
  assert jax.tree.structure(there) == jax.tree.structure(params)
  state = interop.load_state(state_dict, tx, there, names)
  there, _ = train_jax(forward, tx, there, state, HALF)
  assert worst(interop.dump_params(there, names), expected) < 1e-12

  back = interop.load_params(start, params, names)
  back, state = train_jax(forward, tx, back, tx.init(back), HALF)
  net = torch_net()
  net.load_state_dict(interop.dump_params(back, names, like=net))
  optimizer = make(net.named_parameters())
  optimizer.load_state_dict(interop.dump_state(state, tx, back, names, like=optimizer))
  train_torch(net, optimizer, HALF)
  assert worst(net.state_dict(), expected) < 1e-12


def test_names_need_named_parameters():
  params, layers, _ = linen_net()
  optimizer = torch.optim.Adam(torch_net().parameters())
  with pytest.raises(ValueError, match='param_names'):
    interop.load_state(optimizer.state_dict(), presets.torch.adam(), params, interop.flax_names(layers, params))


# What an optimizer of torch can look like.

SGD = presets.torch.sgd(momentum=0.9, dampening=0.5)


def small(dtype, optimizer=None):
  """A parameter of torch after two steps."""
  p = torch.nn.Parameter(torch.tensor([1.0, 2.0, 3.0], dtype=dtype))
  optimizer = (optimizer or torch.optim.Adam)([p])
  for _ in range(2):
    p.grad = torch.tensor([0.5, -0.25, 3.0], dtype=dtype)
    optimizer.step()
  return p, optimizer


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dtypes(dtype):
  """What torch keeps in few bits is kept in float32 here, and in few bits again there."""
  tx, (p, optimizer) = presets.torch.adam(), small(dtype)
  params = {'w': jnp.asarray(p.detach().to(torch.float64).numpy(), str(dtype).removeprefix('torch.'))}
  state = interop.load_state(optimizer.state_dict(), tx, params)
  old = optimizer.state_dict()['state'][0]
  assert state.slots['mu']['w'].dtype == (jnp.float64 if dtype == torch.float64 else jnp.float32)
  np.testing.assert_array_equal(state.slots['nu']['w'], old['exp_avg_sq'].to(torch.float64).numpy())
  for like in (optimizer, optimizer.state_dict(), torch.optim.Adam([p])):
    new = interop.dump_state(state, tx, params, like=like)['state'][0]
    assert new['exp_avg'].dtype == dtype
    assert torch.equal(new['exp_avg'], old['exp_avg'])
    assert torch.equal(new['exp_avg_sq'], old['exp_avg_sq'])
    assert float(new['step']) == 2
  module = {'w': p}
  assert torch.equal(interop.dump_params(interop.load_params(module, params), None, like=module)['w'], p)


def test_param_groups_of_like_are_kept():
  tx, (p, optimizer) = presets.torch.adam(), small(torch.float64)
  optimizer.param_groups[0].update(lr=0.125, note='mine')
  params = {'w': jnp.asarray(p.detach().numpy())}
  state = interop.load_state(optimizer.state_dict(), tx, params)
  assert interop.dump_state(state, tx, params, like=optimizer)['param_groups'] == optimizer.state_dict()['param_groups']


def test_several_groups():
  tx = presets.torch.adam()
  params = {'a': jnp.ones(2), 'b': jnp.ones(3)}
  a, b = (torch.nn.Parameter(torch.ones(n)) for n in (2, 3))
  make = lambda: torch.optim.Adam([{'params': [('b', b)]}, {'params': [('a', a)], 'lr': 0.5}])
  optimizer = make()
  a.grad, b.grad = torch.full((2,), 0.5), torch.full((3,), 0.25)
  optimizer.step()
  state = interop.load_state(optimizer.state_dict(), tx, params, {'a': 'a', 'b': 'b'})
  np.testing.assert_allclose(state.slots['mu']['b'], np.full(3, 0.025))
  again = make()
  again.load_state_dict(interop.dump_state(state, tx, params, {'a': 'a', 'b': 'b'}, again))
  assert torch.equal(again.state[a]['exp_avg'], optimizer.state[a]['exp_avg'])
  assert [group['lr'] for group in again.param_groups] == [1e-3, 0.5]


def test_before_the_first_step():
  """A fresh optimizer has no state, and a fresh state is none of SGD's momentum."""
  params = {'w': jnp.ones(3)}
  for tx, make in ((presets.torch.adam(), torch.optim.Adam), (SGD, functools.partial(torch.optim.SGD, momentum=0.9))):
    p = torch.nn.Parameter(torch.ones(3))
    state = interop.load_state(make([p]).state_dict(), tx, params)
    assert jax.tree.map(np.array_equal, state, tx.init(params)) == jax.tree.map(lambda _: True, state)
  optimizer = torch.optim.SGD([p], momentum=0.9, dampening=0.5)
  optimizer.load_state_dict(interop.dump_state(SGD.init(params), SGD, params, like=optimizer))
  p.grad = torch.ones(3)
  optimizer.step()
  assert torch.equal(optimizer.state[p]['momentum_buffer'], torch.ones(3))


def test_safetensors_of_torch(tmp_path):
  from safetensors.torch import save_file

  p, optimizer = small(torch.bfloat16)
  interop.save_safetensors(tmp_path / 'adam', optimizer.state_dict())
  read = interop.load_safetensors(tmp_path / 'adam')
  assert read['state'][0]['exp_avg'].dtype == jnp.bfloat16
  assert read['param_groups'] == optimizer.state_dict()['param_groups']
  again = torch.optim.Adam([p])
  tx, params = presets.torch.adam(), {'w': jnp.ones(3)}
  state = interop.load_state(read, tx, params)
  again.load_state_dict(interop.dump_state(state, tx, params, like=again))
  assert torch.equal(again.state[p]['exp_avg'], optimizer.state[p]['exp_avg'])
  save_file({'w': p.detach()}, tmp_path / 'module')
  assert interop.load_safetensors(tmp_path / 'module')['w'].dtype == jnp.bfloat16
