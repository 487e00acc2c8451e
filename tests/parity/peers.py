"""The real packages: a configuration goes in, the parameters after each of the 50 steps come out."""

import contextlib
import functools
import importlib
import io
import os
import re
import sys
import types
import warnings
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import problem
from ours import recipe, scan

# Where `make parity` puts the packages of peers.txt. Where it names the folder, what is missing is a failure.
FOLDER = Path(os.environ.get('PARITY_PEERS', Path(sys.prefix) / 'peers'))
MISSING = 'PARITY_PEERS' not in os.environ and not FOLDER.exists()
# Packages whose `__init__` imports far more than an optimizer: only the module of the optimizer is run.
BARE = ('timm', 'timm.optim', 'torch_optimizer', 'pytorch_pretrained_bert', 'adam_atan2_pytorch')


def run(config, dtype):
  """The trajectory of the real optimizer: an array (50, 36)."""
  runner = {'adabelief-tf': _keras, 'bert-tensorflow': _graph, 'optax': _optax}.get(config.package, _torch)
  with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
    warnings.simplefilter('ignore')  # most of them are older than the libraries that they stand on
    return runner(config, np.dtype(dtype))


# Importing them.


@functools.cache
def load(package, version, path):
  """`module:name` of one version of a package, whatever other version is imported under the same name."""
  module, name = path.split(':')
  root = module.split('.')[0]
  folder = FOLDER / f'{package}=={version}'
  if not folder.exists():  # torch and today's optax
    return getattr(importlib.import_module(module), name)
  ours = lambda: {key: m for key, m in sys.modules.items() if key.split('.')[0] == root}
  parents = ['.'.join(module.split('.')[:i]) for i in range(1, module.count('.') + 1)]
  with mock.patch.dict(sys.modules), mock.patch.object(sys, 'path', [str(folder), *sys.path]):
    for key in ours():
      del sys.modules[key]
    for parent in parents:
      if parent in BARE:
        sys.modules[parent] = types.ModuleType(parent)
        sys.modules[parent].__path__ = [str(folder.joinpath(*parent.split('.')))]
    return getattr(importlib.import_module(module), name)


# torch.


def _torch(config, dtype):
  import torch

  float64 = dtype == np.float64
  default = torch.get_default_dtype()
  torch.set_default_dtype(torch.float64 if float64 else torch.float32)  # NAdam keeps scalars in the default dtype
  # ranger-adabelief, RAdamLegacy and torch_optimizer's RAdam cast what they get with `.float()`.
  widened = mock.patch.object(torch.Tensor, 'float', torch.Tensor.double) if float64 else contextlib.nullcontext()
  try:
    with widened:
      return _torch_steps(config, dtype)
  finally:
    torch.set_default_dtype(default)


def _torch_steps(config, dtype):
  import torch

  tensors = lambda row: {name: torch.tensor(x) for name, x in problem.tree(row.astype(dtype), config.complex_).items()}
  params = {name: torch.nn.Parameter(x) for name, x in tensors(problem.PARAMS).items()}
  optimizer = _torch_optimizer(config, params)
  rows = []
  for t, row in enumerate(problem.GRADS):
    for group in optimizer.param_groups:
      group['lr'] = float(problem.RATES[config.rates][t]) if config.rates else group['lr']
    for name, g in tensors(row).items():
      params[name].grad = g
    optimizer.step()
    rows.append(problem.flat({name: p.detach().numpy() for name, p in params.items()}))
  return np.stack(rows)


def _torch_optimizer(config, params):
  make = load(config.package, config.version, config.optimizer)
  kwargs = dict(config.kwargs)
  if config.rates:
    kwargs[config.rate_name] = float(problem.RATES[config.rates][0])
  if config.package == 'pytorch-pretrained-bert':
    return _bert_adam(make, params, **kwargs)
  if config.package != 'labml-nn':
    return make(params.values(), **kwargs)
  decay = load('labml-nn', config.version, 'labml_nn.optimizers:WeightDecay')
  optimizer = make(params.values(), **{**kwargs, 'weight_decay': decay(**kwargs.get('weight_decay', {}))})
  if config.preset == 'labml.adabelief' and not config.ours.get('as_released'):
    _as_documented(optimizer, config)
  return optimizer


def _as_documented(optimizer, config):
  """Undoes that labml's AdaBelief hands its arguments on shifted by one."""
  optimizer.optimized_update = config.ours.get('optimized_update', True)
  optimizer.degenerated_to_sgd = config.kwargs.get('degenerate_to_sgd', True)
  for group in optimizer.param_groups:
    group['amsgrad'] = config.kwargs.get('amsgrad', False)


def _bert_adam(make, params, exclude_from_weight_decay=(), weight_decay_rate=0.0, **kwargs):
  """BertAdam under the names of the original; parameter groups are its exclusion from decay."""
  names = {'learning_rate': 'lr', 'beta_1': 'b1', 'beta_2': 'b2', 'epsilon': 'e'}
  kwargs = {names[name]: value for name, value in kwargs.items()}
  excluded = lambda name: any(re.search(pattern, name) for pattern in exclude_from_weight_decay)
  groups = [{'params': [p], 'weight_decay': 0.0 if excluded(name) else weight_decay_rate} for name, p in params.items()]
  return make(groups, max_grad_norm=-1, schedule=None, t_total=1, **kwargs)  # no clipping, a constant rate


# TensorFlow.


def _keras(config, dtype):
  tf = _tensorflow()
  legacy = tf.keras.optimizers.legacy.Optimizer
  addons = {name: types.ModuleType(name) for name in ('tensorflow_addons', 'tensorflow_addons.utils')}
  number = types.ModuleType('tensorflow_addons.utils.types')
  number.FloatTensorLike = float  # all that version 0.1.0 takes from tensorflow_addons, which has no releases any more
  stubs = {**addons, number.__name__: number}
  with mock.patch.object(tf.keras.optimizers, 'Optimizer', legacy), mock.patch.dict(sys.modules, stubs):
    make = load(config.package, config.version, config.optimizer)
  optimizer = make(**config.kwargs)
  params = {name: tf.Variable(x, name=name) for name, x in problem.tree(problem.PARAMS.astype(dtype)).items()}

  @tf.function
  def step(grads):
    optimizer.apply_gradients([(grads[name], p) for name, p in params.items()])

  rows = []
  for t, row in enumerate(problem.GRADS):
    if config.rates:
      optimizer.learning_rate = float(problem.RATES[config.rates][t])
    step({name: tf.constant(g) for name, g in problem.tree(row.astype(dtype)).items()})
    rows.append(problem.flat({name: p.numpy() for name, p in params.items()}))
  return np.stack(rows)


def _graph(config, dtype):
  tf = _tensorflow().compat.v1
  optimizer = load(config.package, config.version, config.optimizer)(**config.kwargs)
  with tf.Graph().as_default(), tf.Session() as session:
    arrays = problem.tree(problem.PARAMS.astype(dtype))
    params = {name: tf.get_variable(name, initializer=x, use_resource=True) for name, x in arrays.items()}
    grads = {name: tf.placeholder(x.dtype, x.shape) for name, x in arrays.items()}
    step = optimizer.apply_gradients([(grads[name], p) for name, p in params.items()])
    session.run(tf.global_variables_initializer())
    rows = []
    for row in problem.GRADS:
      session.run(step, {grads[name]: g for name, g in problem.tree(row.astype(dtype)).items()})
      rows.append(problem.flat(session.run(params)))
  return np.stack(rows)


@functools.cache
def _tensorflow():
  os.environ['TF_USE_LEGACY_KERAS'] = '1'
  os.environ['TF_CPP_MIN_LOG_LEVEL'] = '3'
  import tensorflow as tf

  return tf


# optax.


def _optax(config, dtype):
  """optax 0.1.0 uses three names that JAX has dropped: an annotation, and two for jax.tree.map."""
  old = {'tree_map': jax.tree.map, 'tree_multimap': jax.tree.map}
  annotation = mock.patch.object(jnp, 'DeviceArray', jax.Array, create=True)
  with annotation, mock.patch.multiple(jax, **old, create=True):
    tx = recipe(config, load(config.package, config.version, config.optimizer))
    return scan([tx], dtype, config.complex_)[0]
