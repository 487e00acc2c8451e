"""Parameter groups by path: what matches, what it means, and that the result is a value like every optimizer."""

import copy
import dataclasses
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


def test_a_path_with_brackets_matches_itself():
  """Read as a glob it does not: 'layer[0]' is 'layer0'."""
  params = {'layer[0]': {'w': jnp.ones(1)}, 'layer0': {'w': jnp.ones(1)}, 'x[1]': jnp.ones(1)}
  found = rates({'layer[0]/w': 1.0, 'x[[]*': 2.0}, params=params)
  assert found == {'layer[0]/w': 1.0, 'layer0/w': 1.0, 'x[1]': 2.0}
  tx = bo.by_path({'x[1]*': bo.sgd(0.1)}, bo.sgd(0.1))
  with pytest.raises(ValueError, match=r"'\[' begins a set of characters; write '\[\[\]'"):
    tx.init(params)


def test_leaves_with_one_path_are_in_one_group():
  """No pattern tells them apart."""
  params = {'a': {'b': jnp.ones(1)}, 'a/b': jnp.ones(1), 'c': jnp.ones(1)}
  tx = bo.by_path({'a/b': bo.sgd(1.0), re.compile('a/b'): bo.sgd(2.0)}, bo.sgd(3.0))
  updates, _ = tx.update(params, tx.init(params), params)
  assert_equal(updates, {'a': {'b': -jnp.ones(1)}, 'a/b': -jnp.ones(1), 'c': -3 * jnp.ones(1)})


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


def test_of_many_paths_the_nearest_are_listed():
  params = {f'block_{i}': {name: jnp.ones(1) for name in ('kernel', 'bias', 'scale')} for i in range(200)}
  tx = bo.by_path({'block_77/kernl': bo.sgd(0.1), '*bias': bo.sgd(0.1), 'blok_5/*': bo.sgd(0.1)}, bo.sgd(0.1))
  with pytest.raises(ValueError, match=r"^by_path: 'block_77/kernl', 'blok_5/\*' match no parameter\.") as error:
    tx.init(params)
  listed, number = str(error.value).partition('The paths are: ')[2].split(' (')
  assert number == 'the nearest 10 of 600).'
  listed = listed.split(', ')
  assert len(set(listed)) == 10
  assert listed[0] == 'block_77/kernel'
  assert listed[1].startswith('block_5/')  # of each pattern in turn
  assert len(str(error.value)) < 400


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


BOUND = {
  # Arguments of each kind, bound by functools.partial, of a factory whose default is the rate 0.5 and the decay 0.1.
  '**options': functools.partial(
    lambda rate, **options: bo.sgd(rate, weight_decay=options.get('weight_decay', 0.0)), 0.5, weight_decay=0.1
  ),
  '*args': functools.partial(lambda rate, *decays: bo.sgd(rate, weight_decay=sum(decays)), 0.5, 0.0625, 0.0375),
  'by position only': functools.partial(lambda rate, decay, /: bo.sgd(rate, weight_decay=decay), 0.5, 0.1),
  'by keyword only': functools.partial(
    lambda *, rate, weight_decay: bo.sgd(rate, weight_decay=weight_decay), rate=0.5, weight_decay=0.1
  ),
  'a partial of one': functools.partial(
    functools.partial(lambda rate, weight_decay: bo.sgd(rate, weight_decay=weight_decay), weight_decay=0.1), 0.5
  ),
}


@pytest.mark.parametrize('factory', BOUND.values(), ids=BOUND)
def test_overrides_replace_one_bound_argument_and_keep_the_others(factory):
  tx = bo.by_path({'head/*': {'rate': 0.25}}, factory)
  updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  step = lambda rate: lambda p, g: -rate * (g + 0.1 * p)
  assert_close(updates['head'], jax.tree.map(step(0.25), PARAMS['head'], GRADS['head']))
  assert_close(updates['body'], jax.tree.map(step(0.5), PARAMS['body'], GRADS['body']))


def test_overrides_reach_the_options_of_a_factory():
  tx = bo.by_path({'head/*': {'weight_decay': 0.0}}, BOUND['**options'])
  updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  assert_close(updates['head'], jax.tree.map(lambda g: -0.5 * g, GRADS['head']))


def test_a_factory_without_a_signature_is_called_with_the_overrides():
  class Factory:
    __signature__ = 'none'  # as of some functions in C

    def __call__(self, rate=0.5):
      return bo.sgd(rate)

  tx = bo.by_path({'head/*': {'rate': 0.25}}, Factory())
  updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
  assert_close(updates['head'], jax.tree.map(lambda g: -0.25 * g, GRADS['head']))


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


# Gradients that do not arrive.

FREE = {'*bias': {'weight_decay': 0.0}}


@pytest.mark.parametrize('given', [True, False], ids=['with params', 'without'])
def test_a_group_without_gradients_stands_still(given):
  """The others step as ever, whether or not update gets the parameters."""
  tx = bo.by_path({'head/*': bo.sgd(0.1, momentum=0.9)}, bo.adam(0.5))
  state = tx.init(PARAMS)
  grads = GRADS | {'head': {'kernel': None, 'bias': None}}
  for update in (tx.update, jax.jit(tx.update)):
    updates, after = update(grads, state, PARAMS if given else None)
    assert updates['head'] == grads['head']
    expected, _ = bo.adam(0.5).update(GRADS['body'], bo.adam(0.5).init(PARAMS['body']))
    assert_close(updates['body'], expected)
    kept = [optax.tree.get(s.inner_states['group_0'], 'slots') for s in (after, state)]
    assert_equal(*kept)
  updates, _ = tx.update(GRADS, after, PARAMS if given else None)
  assert_close(updates['head'], jax.tree.map(lambda g: -0.1 * g, GRADS['head']))


class Layer:
  """A module as those of Equinox: a pytree with leaves that are no arrays, and static fields."""

  def __init__(self, leaves, activation):
    self.leaves, self.activation = leaves, activation


jax.tree_util.register_pytree_with_keys(
  Layer,
  lambda m: ([(jax.tree_util.GetAttrKey(n), x) for n, x in m.leaves.items()], (tuple(m.leaves), m.activation)),
  lambda static, leaves: Layer(dict(zip(static[0], leaves, strict=True)), static[1]),
)


def _filtered(model):
  """What equinox.filter(model, equinox.is_array) is."""
  return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else None, model)


OTHERS = {'function': jax.nn.relu, 'string': 'relu', 'objects': np.array([object(), None]), 'whole': np.arange(3)}


@pytest.mark.parametrize('default', [bo.adamw, optax.adamw], ids=['bo', 'optax'])
def test_parameters_without_a_gradient_are_not_looked_at(default):
  """tx.init(eqx.filter(m, eqx.is_array)) and tx.update(eqx.filter_grad(loss)(m), state, m)."""
  model = Layer({'kernel': jnp.asarray([[2.0, -1.0]]), 'bias': jnp.asarray([0.5, 1.0]), **OTHERS}, jax.nn.gelu)
  grads = jax.tree.map(lambda p: 0.25 * p + 1, _filtered(model))
  tx = bo.by_path(FREE, functools.partial(default, 0.1, weight_decay=0.5))
  updates, state = tx.update(grads, tx.init(_filtered(model)), model)
  assert [updates.leaves[name] for name in OTHERS] == [None] * len(OTHERS)
  for name, decay in (('kernel', 0.5), ('bias', 0.0)):
    one, g, p = default(0.1, weight_decay=decay), grads.leaves[name], model.leaves[name]
    assert_close(updates.leaves[name], one.update(g, one.init(p), p)[0])
  tx.update(grads, state, model)


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


@dataclasses.dataclass(frozen=True)
class Scaled:
  """`update` of a transformation that cannot be hashed: it holds an array."""

  by: jax.Array

  def __call__(self, updates, state, params=None, **extra_args):
    return jax.tree.map(lambda u: self.by * u, updates), state


def test_groups_of_what_cannot_be_hashed_compare_by_identity():
  make = lambda: optax.GradientTransformationExtraArgs(optax.identity().init, Scaled(jnp.asarray([-2.0])))
  one = make()
  with pytest.raises(TypeError, match='unhashable'):
    hash(one)
  groups = lambda inner: bo.by_path({'*bias': inner}, bo.sgd(0.1))
  assert groups(one) == groups(one)
  assert hash(groups(one)) == hash(groups(one))
  assert groups(one) != groups(make())
  step = jax.jit(lambda tx, p: tx.update(p, tx.init(p), p)[0], static_argnums=0)
  assert_equal(step(groups(one), PARAMS)['body']['bias'], -2 * PARAMS['body']['bias'])


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
    (
      {'*': bo.sgd(0.1), '*bias': {'weight_decya': 0.0}},
      functools.partial(bo.sgd, 0.1),
      TypeError,
      r"'\*bias' overrides 'weight_decya', but the arguments of sgd are: learning_rate, .*weight_decay",
    ),
    ({'*': {3: 1}}, functools.partial(bo.sgd, 0.1), TypeError, r"'\*' overrides 3, but the arguments of sgd are"),
    ({'*': {'learning_rate': -1.0}}, functools.partial(bo.sgd, 0.1), ValueError, 'learning_rate must be'),
    ({'*': bo.sgd(0.1)}, lambda: None, TypeError, 'default'),
    ({'*': {}}, lambda **_: None, TypeError, 'default'),
  ],
)
def test_bad_groups_are_refused(groups, default, error, message):
  with pytest.raises(error, match=message):
    bo.by_path(groups, default)


@pytest.mark.parametrize('factory', [bo.sgd, lambda **options: bo.sgd(**{'learning_rate': 0.1} | options)])
def test_what_a_factory_raises_names_the_group(factory):
  groups = {'*': bo.sgd(0.1), re.compile('.*bias'): {'learning_rate': -1.0}}
  with pytest.raises(ValueError, match='learning_rate must be') as error:
    bo.by_path(groups, functools.partial(factory, learning_rate=0.1))
  assert error.value.__notes__ == ["by_path: raised by default, called with the overrides of re.compile('.*bias')."]
