"""Parameter groups by path: what matches, what it means, and that the result is a value like every optimizer."""

import copy
import functools
import pickle
import re
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from contract_helpers import assert_close, assert_equal, traced
from flax import linen, nnx
from flax.training.train_state import TrainState

import belief_optax as bo

PARAMS = {
  'body': {'kernel': jnp.asarray([2.0, -1.0]), 'bias': jnp.asarray([0.5]), 'norm': {'scale': jnp.asarray([3.0])}},
  'head': {'kernel': jnp.asarray([1.0, 4.0]), 'bias': jnp.asarray([-2.0])},
}
GRADS = jax.tree.map(lambda p: 0.25 * p + 1, PARAMS)


def rates(groups, default=0.0, params=PARAMS):
  """The learning rate of every leaf, read off one step of SGD."""
  tx = bo.by_path({p: bo.sgd(g) if isinstance(g, float) else g for p, g in groups.items()}, bo.sgd(default))
  ones = jax.tree.map(jnp.ones_like, params)
  updates, _ = tx.update(ones, tx.init(params), params)
  flat = jax.tree_util.tree_leaves_with_path(updates)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): -round(float(u.ravel()[0]), 4) for path, u in flat}


NONE = {'body/kernel': 0.0, 'body/bias': 0.0, 'body/norm/scale': 0.0, 'head/kernel': 0.0, 'head/bias': 0.0}


@pytest.mark.parametrize(
  ('groups', 'expected'),
  [
    ({'*bias': 1.0}, {'body/bias': 1.0, 'head/bias': 1.0}),
    ({'*/bias': 1.0}, {'body/bias': 1.0, 'head/bias': 1.0}),
    ({'head/*': 1.0}, {'head/kernel': 1.0, 'head/bias': 1.0}),
    ({'body/*': 1.0}, {'body/kernel': 1.0, 'body/bias': 1.0, 'body/norm/scale': 1.0}),
    ({'head/kernel': 1.0}, {'head/kernel': 1.0}),
    ({'*/norm/*': 1.0, 'head/[kx]*': 2.0}, {'body/norm/scale': 1.0, 'head/kernel': 2.0}),
    ({'????/bias': 1.0}, {'body/bias': 1.0, 'head/bias': 1.0}),
    ({re.compile(r'head/(kernel|bias)'): 1.0}, {'head/kernel': 1.0, 'head/bias': 1.0}),
    ({re.compile(r'.*(bias|scale)'): 1.0}, {'body/bias': 1.0, 'body/norm/scale': 1.0, 'head/bias': 1.0}),
    # The first pattern that matches wins.
    ({'head/*': 1.0, '*bias': 2.0}, {'head/kernel': 1.0, 'head/bias': 1.0, 'body/bias': 2.0}),
    ({'*bias': 2.0, 'head/*': 1.0}, {'head/kernel': 1.0, 'head/bias': 2.0, 'body/bias': 2.0}),
    ({'*': 1.0}, dict.fromkeys(NONE, 1.0)),
    ({}, {}),
  ],
)
def test_patterns_match_whole_paths(groups, expected):
  assert rates(groups) == {**NONE, **expected}


@pytest.mark.parametrize(
  'pattern', ['bias', 'Head/*', 'ead/kernel', 'head', re.compile('head'), re.compile('kernel'), '*/b']
)
def test_patterns_that_match_nothing_are_refused(pattern):
  tx = bo.by_path({'head/*': bo.sgd(0.1), pattern: bo.sgd(0.1)}, bo.sgd(0.1))
  text = pattern if isinstance(pattern, str) else pattern.pattern
  with pytest.raises(ValueError, match=re.escape(text)) as error:
    tx.init(PARAMS)
  assert all(path in str(error.value).partition('The paths are')[2] for path in NONE)
  assert 'head/*' not in str(error.value)


def test_a_pattern_that_only_loses_is_not_idle():
  """It matches something, though an earlier pattern takes it."""
  assert rates({'head/*': 1.0, 'head/bias': 2.0})['head/bias'] == 1.0


def test_param_groups_are_transformations_or_overrides():
  make = functools.partial(bo.sgd, 0.5, momentum=0.5)
  tx = bo.by_path({'head/*': {'momentum': None}, '*bias': optax.sgd(0.125), '*scale': {'learning_rate': 0.25}}, make)
  updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  expected = {
    'body': {
      'kernel': bo.sgd(0.5, momentum=0.5),
      'bias': optax.sgd(0.125),
      'norm': {'scale': bo.sgd(0.25, momentum=0.5)},
    },
    'head': {'kernel': bo.sgd(0.5), 'bias': bo.sgd(0.5)},
  }
  by_hand = jax.tree.map(
    lambda one, g: one.update(g, one.init(g), g)[0],
    expected,
    GRADS,
    is_leaf=lambda x: isinstance(x, optax.GradientTransformation),
  )
  assert_close(updates, by_hand)


def test_any_callable_is_a_factory():
  tx = bo.by_path({'head/*': {'rate': 0.25}}, lambda rate=0.5: optax.sgd(rate))
  updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  assert_close(updates['head'], jax.tree.map(lambda g: -0.25 * g, GRADS['head']))
  assert_close(updates['body'], jax.tree.map(lambda g: -0.5 * g, GRADS['body']))


def test_no_decay_on_bias_and_norm():
  """The recipe of every transformer, for two steps against the equations."""
  decay, rate, b1, b2, eps = 0.1, 0.01, 0.9, 0.999, 1e-8
  tx = bo.by_path(
    {'*bias': {'weight_decay': 0.0}, '*/norm/*': {'weight_decay': 0.0}},
    functools.partial(bo.adamw, rate, b1, b2, eps, weight_decay=decay),
  )
  state, params = tx.init(PARAMS), PARAMS
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), PARAMS)
  grads = [GRADS, jax.tree.map(lambda g: -2 * g + 1, GRADS)]
  decays = {
    'body': {'kernel': decay, 'bias': 0.0, 'norm': {'scale': 0.0}},
    'head': {'kernel': decay, 'bias': 0.0},
  }
  m = v = jax.tree.map(np.zeros_like, p)
  for t, g in enumerate(grads, 1):
    m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * np.asarray(g), m, g)
    v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * np.asarray(g) ** 2, v, g)
    step = lambda p, m, v, w, t=t: p - rate * (m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps) + w * p)
    p = jax.tree.map(step, p, m, v, decays)
    u, state = tx.update(g, state, params)
    params = optax.apply_updates(params, u)
  for found, expected in zip(jax.tree.leaves(params), jax.tree.leaves(p), strict=True):
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_base_and_classifier_rates():
  """Base 1e-2, classifier 1e-3, as in the documentation of torch."""
  tx = bo.by_path({'head/*': {'learning_rate': 1e-3}}, functools.partial(bo.sgd, learning_rate=1e-2, momentum=0.9))
  state, buffer = tx.init(PARAMS), jax.tree.map(jnp.zeros_like, PARAMS)
  for _ in range(2):
    buffer = jax.tree.map(lambda c, g: 0.9 * c + g, buffer, GRADS)
    u, state = tx.update(GRADS, state, PARAMS)
    assert_close(u['body'], jax.tree.map(lambda c: -1e-2 * c, buffer['body']))
    assert_close(u['head'], jax.tree.map(lambda c: -1e-3 * c, buffer['head']))


# Values.


def _make(rate=1e-3, pattern='*bias'):
  return bo.by_path(
    {pattern: {'weight_decay': 0.0}, re.compile('head/.*'): bo.sgd(0.1)}, functools.partial(bo.adamw, rate)
  )


def test_param_groups_are_values():
  tx = _make()
  assert tx == _make()
  assert hash(tx) == hash(_make())
  assert tx != _make(2e-3)
  assert tx != _make(pattern='*kernel')
  reordered = {re.compile('head/.*'): bo.sgd(0.1), '*bias': bo.adamw(1e-3, weight_decay=0.0)}
  assert tx == bo.by_path(dict(reversed(reordered.items())), bo.adamw(1e-3))
  assert tx != bo.by_path(reordered, bo.adamw(1e-3))
  assert isinstance(tx, optax.GradientTransformationExtraArgs)


def test_param_groups_print_as_their_recipes():
  printed = repr(_make())
  assert printed.startswith('by_path(')
  for part in ("'*bias': compose(", "re.compile('head/.*'): scale_by_learning_rate(", 'default: compose('):
    assert part in printed
  assert textwrap.indent(repr(bo.adamw(1e-3)), '  ').lstrip() in printed  # nested as deep as it stands


@pytest.mark.parametrize('used', [False, True])
def test_param_groups_pickle_and_copy(used):
  tx = _make()
  if used:
    tx.update(GRADS, tx.init(PARAMS), PARAMS)
  for again in (pickle.loads(pickle.dumps(tx)), copy.deepcopy(tx), copy.copy(tx)):
    assert again == tx
    assert_equal(again.update(GRADS, again.init(PARAMS), PARAMS), tx.update(GRADS, tx.init(PARAMS), PARAMS))


def test_equal_groups_share_a_train_state_trace():
  step, traces = traced(lambda state, g: state.apply_gradients(grads=g))
  for _ in range(2):
    step(TrainState.create(apply_fn=None, params=PARAMS, tx=_make()), GRADS)
  assert len(traces) == 1
  step(TrainState.create(apply_fn=None, params=PARAMS, tx=_make(2e-3)), GRADS)
  assert len(traces) == 2


def test_param_groups_nest_in_chains_and_take_extra_arguments():
  tx = optax.chain(optax.clip_by_global_norm(1e9), _make())
  u, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0)
  assert_close(u, _make().update(GRADS, _make().init(PARAMS), PARAMS)[0])


def test_map_params_finds_the_slots_of_groups():
  tx = _make()
  marked = optax.tree.map_params(tx, lambda _: 'slot', tx.init(PARAMS))
  assert jax.tree.leaves(marked).count('slot') == 2 * 4  # mu and nu of everything but head/kernel, which SGD has


def test_empty_trees_have_no_groups():
  tx = bo.by_path({'*bias': bo.sgd(0.1)}, bo.sgd(0.1))
  assert tx.update({}, tx.init({}), {})[0] == {}


# The trees of others.


def test_paths_of_linen_parameters():
  class Net(linen.Module):
    @linen.compact
    def __call__(self, x):
      x = linen.LayerNorm(name='norm')(linen.Dense(3, name='body')(x))
      return linen.Dense(2, name='head')(x)

  params = Net().init(jax.random.key(0), jnp.ones((1, 2)))['params']
  found = rates({'*bias': 1.0, '*scale': 2.0, 'head/*': 3.0}, params=params)
  assert found == {
    'body/kernel': 0.0,
    'body/bias': 1.0,
    'norm/scale': 2.0,
    'norm/bias': 1.0,
    'head/kernel': 3.0,
    'head/bias': 1.0,
  }
  # With the collection in the tree the paths begin with it.
  assert rates({'params/head/kernel': 1.0}, params={'params': params})['params/head/kernel'] == 1.0


def test_paths_of_nnx_parameters():
  """The patterns are those of any tree: an nnx.State adds nothing to the path."""

  class Net(nnx.Module):
    def __init__(self, rngs):
      self.body = nnx.Linear(2, 3, rngs=rngs)
      self.head = nnx.Linear(3, 2, rngs=rngs)

  model = Net(nnx.Rngs(0))
  tx = bo.by_path(
    {'*bias': {'weight_decay': 0.0}, 'head/*': {'learning_rate': 0.5}},
    functools.partial(bo.sgd, 0.25, weight_decay=1.0),
  )
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  before = jax.tree.map(jnp.copy, nnx.state(model, nnx.Param))
  optimizer.update(model, jax.tree.map(jnp.ones_like, before))
  step = lambda layer, name: getattr(getattr(model, layer), name)[...]
  for layer, rate in (('body', 0.25), ('head', 0.5)):
    kernel = before[layer]['kernel'][...]
    np.testing.assert_allclose(step(layer, 'kernel'), kernel - rate * (1 + kernel), rtol=1e-6)
    np.testing.assert_allclose(step(layer, 'bias'), before[layer]['bias'][...] - 0.25, rtol=1e-6)


def test_paths_of_sequences():
  params = {'layers': [jnp.ones(1), jnp.ones(1)], 'pair': (jnp.ones(1),)}
  assert rates({'layers/1': 1.0, 'pair/*': 2.0}, params=params) == {'layers/0': 0.0, 'layers/1': 1.0, 'pair/0': 2.0}


# What is refused.


@pytest.mark.parametrize(
  ('groups', 'default', 'error', 'message'),
  [
    ({'*': {'weight_decay': 0.0}}, bo.adamw(0.1), ValueError, 'pass a factory such as functools.partial'),
    ({'*': 0.1}, bo.sgd(0.1), TypeError, r"'\*' must map to a transformation or to overrides, got 0.1"),
    ({3: bo.sgd(0.1)}, bo.sgd(0.1), TypeError, 'a pattern must be a glob or a compiled regular expression, got 3'),
    ({'*': bo.sgd(0.1)}, 0.1, TypeError, 'default must be a gradient transformation or a factory'),
    ({'*': {'no_such': 1}}, functools.partial(bo.sgd, 0.1), TypeError, 'no_such'),
    ({'*': {'learning_rate': -1.0}}, functools.partial(bo.sgd, 0.1), ValueError, 'learning_rate must be'),
    ({'*': bo.sgd(0.1)}, lambda: None, TypeError, 'default'),
    ({'*': {}}, lambda **_: None, TypeError, 'default'),
  ],
)
def test_bad_groups_are_refused(groups, default, error, message):
  with pytest.raises(error, match=message):
    bo.by_path(groups, default)
