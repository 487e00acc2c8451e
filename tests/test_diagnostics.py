"""What an optimizer says of itself: its description, and the numbers that `measure` takes during the steps."""

import functools
import json
import math
import pickle
import re
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization
from flax.training import train_state
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from matplotlib.backends.backend_agg import FigureCanvasAgg
from registry import ALGORITHM_ROWS
from test_hlo import LARGE, compiled_step, copies

import belief_optax as bo
from belief_optax import diagnostics, sharding, stores
from belief_optax.diagnostics import mathematics, observed

FULL = functools.partial(pytest.param, marks=pytest.mark.full)  # of the full matrix: each compiles programs of its own

# The description.


@pytest.mark.parametrize('name', bo.pieces.__all__)
def test_the_equation_of_each_piece_is_found_and_reads_as_text(name):
  line = object.__new__(next(cls for cls in _lines() if _snake(cls.__name__) == name))
  found = mathematics.equation(line)
  assert found
  assert found in ' '.join(type(line).__doc__.split())
  assert not set(mathematics.plain(found)) & set('\\$&')


def _lines(cls=bo.Line):
  for sub in cls.__subclasses__():
    yield sub
    yield from _lines(sub)


def _snake(name):
  return re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', name).lower()


@pytest.mark.parametrize(
  ('latex', 'text'),
  [
    (r'\frac{a b}{c_{t-1}}', '(a b) / (c_(t-1))'),
    (r'\sqrt{\frac{(\rho-4)\rho_\infty}{(\rho_\infty-4)\rho}}', 'sqrt(((ρ-4)ρ_∞) / ((ρ_∞-4)ρ))'),
    (r'x = \begin{cases} r u & \rho \ge 5 \\ 0 & \text{else} \end{cases}, \quad y', 'x = {r u if ρ ≥ 5; 0 else}, y'),
    (r'a \, b \text{ or } c', 'a b or c'),
    (r'\unknown x', 'unknown x'),
  ],
)
def test_latex_as_text(latex, text):
  assert mathematics.plain(latex) == text


def test_a_line_of_the_user_is_described_by_its_docstring():
  class Halve(bo.Line):
    """Halves the direction.

    .. math:: u_t \\leftarrow u_t / 2

    And more.
    """

  class Silent(bo.Line):
    by: float = bo.hyper(default=1.0, allowed=bo.ranges.FINITE)

  text = str(diagnostics.describe(bo.compose(bo.piece(Halve)(), bo.piece(Silent)())))
  assert 'u_t ← u_t / 2' in text
  assert mathematics.equation(Silent()) == mathematics.summary(Silent()) == ''


def constants(tx):
  (part,) = diagnostics.describe(tx).parts
  return {c.name: c.value for c in part.constants}


def test_the_constants_of_adabelief():
  found = constants(bo.adabelief(1e-3, rectify=True, degenerate_to_sgd=True, weight_decay=0.1))
  assert found['learning rate'] == 1e-3
  assert found['half-life of b1'] == pytest.approx(math.log(0.5, 0.9))
  assert found['half-life of b2'] == pytest.approx(math.log(0.5, 0.999))
  assert found['first rectified step'] == 6
  assert found['floor of nu'] == pytest.approx(1e-13)
  assert found['least denominator'] == pytest.approx(1e-13**0.5 + 1e-16)
  assert found['longest direction'] == pytest.approx(1 / found['least denominator'])
  assert found["Adam's learning rate"] == pytest.approx(1e-3 * (1.9 / 2) ** 0.5 / 0.9)
  assert (1 - 1e-3 * 0.1) ** found['half-life of a parameter'] == pytest.approx(0.5)
  assert found['bytes per parameter'] == 8


def test_r_t_is_that_of_the_paper():
  b2, t = 0.999, 6
  limit = 2 / (1 - b2) - 1
  rho = limit - 2 * t * b2**t / (1 - b2**t)
  expected = math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
  assert constants(bo.radam(1e-3))['r_t at that step'] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
  ('tx', 'name', 'value'),
  [
    (bo.adam(1e-3), 'least denominator', 1e-8),
    (bo.adam(1e-3), "AdaBelief's learning rate", 1e-3 * 0.9 / (1.9 / 2) ** 0.5),
    (bo.adam(1e-3, store='int8'), 'bytes per parameter', 2),
    (bo.adamw(1e-3, weight_decay=0.1, mask={'w': True, 'b': False}), 'bytes per parameter', 8),
    (bo.adam(optax.linear_schedule(0.5, 0.0, 10)), 'learning rate', 0.5),
    (bo.sgd(0.1, momentum=0.9), 'half-life of decay', math.log(0.5, 0.9)),
    (bo.compose(bo.adam(1e-3), bo.average_params(0.99)), 'half-life of ema_decay', math.log(0.5, 0.99)),
    (bo.ademamix(1e-3), 'half-life of b3', math.log(0.5, 0.9999)),
    (bo.adabelief(1e-3, max_step=10.0), 'longest direction', 10),
  ],
)
def test_constants_of_others(tx, name, value):
  assert constants(tx)[name] == pytest.approx(value)


@pytest.mark.parametrize('mode', ['decoupled', 'fixed', 'independent', 'cautious', 'proximal'])
@pytest.mark.parametrize('make', [bo.adamw, bo.sgd, bo.lion, bo.adopt, bo.laprop, bo.padam, bo.adam_atan2, bo.adamax])
def test_the_half_life_of_a_parameter_is_that_of_a_training(make, mode):
  tx, params = make(0.1, weight_decay=0.2, weight_decay_mode=mode), jnp.ones(1)
  steps, state = 0, tx.init(params)
  while float(params[0]) > 0.5:
    updates, state = tx.update(jnp.zeros(1), state, params)
    params, steps = params + updates, steps + 1
  assert math.ceil(constants(tx)['half-life of a parameter']) == steps


@pytest.mark.parametrize(
  'tx',
  [
    bo.lamb(1e-3, weight_decay=0.1),  # decays by the learning rate, whatever the weight decay is
    bo.compose(bo.adamw(1e-3, weight_decay=0.1), bo.lookahead()),
    bo.adamw(1e-3, weight_decay=0.1, weight_decay_mode='l2'),
  ],
)
def test_no_half_life_of_a_parameter_is_said_where_more_than_decay_moves_it(tx):
  assert 'half-life of a parameter' not in constants(tx)


def test_a_limit_that_varies_is_no_number():
  (part,) = diagnostics.describe(bo.adabelief(1e-3, max_step=optax.constant_schedule(3.0))).parts
  assert [(c.value, 'follows' in c.meaning) for c in part.constants if c.name == 'longest direction'] == [(None, True)]


def test_the_rates_of_lion_are_those_of_its_mean():
  (part,) = diagnostics.describe(bo.lion(1e-4)).parts
  assert [(c.name, c.meaning) for c in part.constants if 'half-life' in c.name] == [
    ('half-life of b2', 'steps, until a gradient has half of its weight')
  ]


@pytest.mark.parametrize(
  'tx',
  [
    bo.nadam(1e-3),
    bo.adabelief(1e-3, residual='previous'),
    bo.adabelief(1e-3, residual='debiased'),
    bo.adabelief(1e-3, amsgrad=True),
    bo.adam(optax.constant_schedule(1e-3)),
    bo.sgd(1e-3, momentum=0.9),
  ],
)
def test_no_learning_rate_is_matched_where_the_formula_is_of_something_else(tx):
  assert not [name for name in constants(tx) if 'learning rate' in name and name != 'learning rate']


def test_what_only_a_running_optimizer_knows_is_said():
  (part,) = diagnostics.describe(bo.adam(jnp.float32(1e-3), b2=optax.constant_schedule(0.9))).parts
  words = {c.name: (c.value, c.meaning) for c in part.constants}
  assert words['learning rate'] == (None, 'is an array, which may change')
  assert words['half-life of b2'][0] is None
  assert 'follows' in words['half-life of b2'][1]


def test_sizes_are_those_of_the_state():
  params = {'w': jnp.ones((8, 8)), 'b': jnp.ones(3, jnp.bfloat16)}
  sizes = {c.name: c.value for c in diagnostics.describe(bo.adam(1e-3), params).sizes}
  expected = bo.state_bytes(bo.adam(1e-3).init(params))
  assert sizes == {'parameters': 67, 'bytes of parameters': 4 * 64 + 2 * 3, 'bytes of state': expected}


def test_recipes_are_found_inside_of_chains_groups_and_wrappers():
  mesh = jax.make_mesh((1,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
  grouped = bo.by_path({'*bias': bo.sgd(0.1)}, optax.chain(optax.clip_by_global_norm(1.0), bo.adam(1e-3)))
  found = diagnostics.describe(sharding.zero1(grouped, everywhere))
  assert found.wrappers == ('zero1', 'by_path')
  assert [part.group for part in found.parts] == ["'*bias'", 'default']
  assert [part.before for part in found.parts] == [(), ('clip_by_global_norm',)]
  assert [len(part.steps) for part in found.parts] == [1, 5]


def test_what_stands_around_a_recipe_has_its_name():
  assert diagnostics.describe(bo.skip_unhealthy(bo.accumulate(bo.adam(0.1), 2))).wrappers == (
    'skip_unhealthy',
    'accumulate',
  )
  chain = optax.chain(bo.clip_direction(1.0), bo.accumulate(bo.sgd(1.0), 2), bo.scale_by_belief(), bo.sgd(0.1))
  (part,) = diagnostics.describe(chain).parts
  belief = 'first_moment, belief, bias_correct, precondition'
  assert part.before == ('clip_direction', 'accumulate', belief)


@pytest.mark.parametrize('row', ALGORITHM_ROWS, ids=str)
def test_every_algorithm_writes_itself_in_each_way(row):
  found = diagnostics.describe(row.make(), jnp.ones(3))
  text, markdown, latex = str(found), found.markdown(), found.latex()
  for line in row.make().lines:
    assert repr(line) in text
    assert f'`{line!r}`' in markdown
    assert mathematics.equation(line) in latex
  assert markdown.count('$$') == 2 * len(found.parts[0].steps)
  assert latex.count('{') == latex.count('}')
  assert len(re.findall(r'\\begin', latex)) == len(re.findall(r'\\end', latex))
  assert json.loads(json.dumps(found.as_dict()))['parts'][0]['steps'][0]['call'] == repr(row.make().lines[0])


@pytest.mark.parametrize('tx', [optax.adam(1e-3), 'adam', bo.adam])
def test_what_is_no_recipe_cannot_be_described(tx):
  with pytest.raises(TypeError, match='tx must be'):
    diagnostics.describe(tx)


# The measurements: values, in float64.

B1, B2, EPS = 0.9, 0.999, 1e-16
DRAW = np.random.default_rng(0)
PARAMS = {'w': DRAW.normal(size=(6, 5)), 'b': DRAW.normal(size=4)}
GRADS = [{'w': DRAW.normal(size=(6, 5)), 'b': 1e-3 * DRAW.normal(size=4)} for _ in range(7)]


def as_arrays(tree, dtype=jnp.float32):
  return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def flat(tree, names=('b', 'w')):
  return np.concatenate([np.ravel(np.asarray(tree[name], np.float64)) for name in names])


def rms(x):
  return np.sqrt(np.mean(np.square(x)))


def train(tx, params=PARAMS, grads=GRADS, dtype=jnp.float32, jit=True):
  """The parameters and the state after the steps."""
  params, update = as_arrays(params, dtype), jax.jit(tx.update) if jit else tx.update
  state = tx.init(params)
  for g in grads:
    updates, state = update(as_arrays(g, dtype), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def measured(tx, *args, **options):
  return diagnostics.read(train(tx, *args, **options)[1])


@pytest.mark.parametrize('jit', [True, FULL(False)], ids=['jit', 'eager'])
@pytest.mark.parametrize('names', [('b', 'w'), FULL(('b',)), FULL(('w',))], ids=['all', 'bias', 'rest'])
def test_each_scalar_of_adabelief_is_that_of_numpy(names, jit):
  lr, decay = 0.01, 0.1
  tx = bo.adabelief(lr, B1, B2, EPS, EPS, weight_decay=decay, rectify=True, degenerate_to_sgd=True)
  values = measured(diagnostics.measure(tx, {'bias': 'b'}), jit=jit)
  prefix = {('b', 'w'): '', ('b',): 'bias/', ('w',): 'rest/'}[names]
  before, _ = train(tx, grads=GRADS[:-1])
  p, gs = flat(before, names), [flat(g, names) for g in GRADS]
  m = s = np.zeros_like(p)
  for g in gs:
    m = B1 * m + (1 - B1) * g
    s = B2 * s + (1 - B2) * (g - m) ** 2 + EPS
  t, g = len(gs), gs[-1]
  nu = s / (1 - B2**t)
  limit = 2 / (1 - B2) - 1
  rho = limit - 2 * t * B2**t / (1 - B2**t)
  r = math.sqrt((rho - 4) * (rho - 2) * limit / ((limit - 4) * (limit - 2) * rho))
  direction = r * m / (1 - B1**t) / (np.sqrt(nu) + EPS) + decay * p
  expected = {
    'learning_rate': lr,
    'r_t': r,
    'rectified': 1,
    'gradient_rms': rms(g),
    'param_rms': rms(p),
    'direction_rms': rms(direction),
    'direction_max': np.abs(direction).max(),
    'update_rms': lr * rms(direction),
    'update_max': lr * np.abs(direction).max(),
    'update_to_param': lr * rms(direction) / rms(p),
    'gradient_to_root_nu': rms(g / np.sqrt(nu)),
    'residual_to_gradient': rms(g - m) / rms(g),
    'eps_share': 0,
    'lost_share': 0,
  }
  found = {name: value for name, value in values.items() if name in {prefix + key for key in expected}}
  assert found == {prefix + name: pytest.approx(value, rel=2e-5, abs=1e-9) for name, value in expected.items()}
  assert values['step'] == t
  assert values['state_bytes'] == bo.state_bytes(tx.init(as_arrays(PARAMS)))


def test_what_a_recipe_does_not_have_is_left_out():
  assert set(measured(diagnostics.measure(bo.sgd(0.1)))) == {
    *('step', 'state_bytes', 'learning_rate', 'gradient_rms', 'param_rms', 'direction_rms', 'direction_max'),
    *('update_rms', 'update_max', 'update_to_param', 'lost_share'),
  }


def test_rectification_that_is_not_active_is_0():
  values = measured(diagnostics.measure(bo.radam(1e-3)), grads=GRADS[:4])
  assert (values['rectified'], values['r_t']) == (0, 0)


@pytest.mark.parametrize(
  ('tx', 'expected'),
  [
    (bo.adam(1e-3, eps=1e-2), 4 / 34),  # only the biases, whose gradients are 1e-3
    FULL(bo.adam(1e-3, eps=1e-12), 0),
    FULL(bo.adam(1e-3, eps=0.0, eps_root=1e-4), 4 / 34),
    (bo.adabelief(1e-3, eps_root=1e-7), 4 / 34),  # its floor is 1e-4
    FULL(bo.adabelief(1e-3, eps_root=1e3), 1),
    FULL(bo.compose(bo.second_moment(0.9), bo.add_eps_root(1e-4), bo.precondition(0.0)), 4 / 34),
    FULL(bo.adam(1e-3, eps=0.0), 0),
  ],
  ids=['eps', 'small eps', 'eps_root', 'floor of belief', 'all', 'add_eps_root', 'none'],
)
def test_the_share_of_elements_where_eps_dominates(tx, expected):
  assert measured(diagnostics.measure(tx))['eps_share'] == pytest.approx(expected, abs=1e-7)


def test_the_floor_of_belief_is_that_of_a_gradient_without_residual():
  """A constant gradient has no residual after many steps: all that is left of s is eps_root."""
  tx = diagnostics.measure(bo.adabelief(1e-3, b1=0.5, b2=0.5, eps_root=1e-6))
  assert measured(tx, grads=[GRADS[0]] * 2)['eps_share'] < 1
  assert measured(tx, grads=[GRADS[0]] * 40)['eps_share'] == 1


class Clip(bo.Line):
  caps = True

  def step(self, x, k):
    return x.redirect(jnp.clip(x.u, -1, 1))


@pytest.mark.parametrize('make', [bo.laprop, bo.adopt])
def test_a_mean_of_directions_is_no_belief(make):
  assert 'residual_to_gradient' not in measured(diagnostics.measure(make(0.1)))


@pytest.mark.parametrize('clip', [bo.piece(Clip), lambda: bo.clip_direction(1.0)])
def test_the_share_of_elements_that_a_line_has_clipped(clip):
  tx = bo.compose(clip(), bo.scale_by_learning_rate(1.0))
  expected = np.mean(np.abs(flat(GRADS[-1])) > 1)
  assert 0 < expected < 1
  assert measured(diagnostics.measure(tx))['capped_share'] == pytest.approx(expected)
  inside = {'w': np.array([0.5, np.nan, 0.1]), 'b': np.ones(1)}
  assert measured(diagnostics.measure(tx), inside, [inside])['capped_share'] == 0


@pytest.mark.parametrize('dtype', [FULL('float32'), 'bfloat16', FULL('float16')])
def test_the_share_of_updates_that_round_to_nothing(dtype):
  """A gradient of 0 has no update that could be lost."""
  params = {'w': np.array([1.0, 256.0, 1.0, 3.0, 1.0]), 'b': np.ones(1)}
  grads = [{'w': np.array([1.0, -1.0, 2.0**-6, 2.0**-20, 0.0]), 'b': np.array([2.0**-30])}]
  values = measured(diagnostics.measure(bo.sgd(1.0)), params, grads, dtype=dtype)
  nothing = {'float32': [0, 0, 0, 0, 0, 1], 'bfloat16': [0, 1, 0, 1, 0, 1], 'float16': [0, 0, 0, 1, 0, 0]}[dtype]
  small = np.asarray(jnp.asarray(grads[0]['b'], dtype), np.float64)
  nothing[5] = int(small[0] != 0)  # float16 has no 2^-30
  assert values['lost_share'] == pytest.approx(np.mean(nothing))


def test_round_updates_loses_nothing():
  params = {'w': np.ones(64), 'b': np.ones(64)}
  grads = [{'w': np.full(64, 1.0), 'b': np.full(64, -1.0)}]
  plain = measured(diagnostics.measure(bo.sgd(1e-4)), params, grads, dtype='bfloat16')
  rounded = bo.compose(bo.sgd(1e-4), bo.round_updates())
  assert plain['lost_share'] == 1
  assert measured(diagnostics.measure(rounded), params, grads, dtype='bfloat16')['lost_share'] == 0


@pytest.mark.parametrize('store', [FULL('bfloat16'), 'int8', FULL(stores.Packed16(min_size=0))], ids=str)
def test_the_error_of_codes_is_that_of_what_is_kept(store):
  """After one step from zero the exact moments are known."""
  tx = bo.adam(1e-3, B1, B2, store=store)
  _, state = train(diagnostics.measure(tx), grads=GRADS[:1])
  kept, g = bo.decode_state(state.inner, tx).slots, flat(GRADS[0])
  mean, root = (1 - B1) * g, np.sqrt((1 - B2) * g**2)
  values = diagnostics.read(state)
  assert values['mean_code_error'] == pytest.approx(rms(flat(kept['mu']) - mean) / rms(mean), rel=1e-3)
  assert values['root_code_error'] == pytest.approx(rms(np.sqrt(flat(kept['nu'])) - root) / rms(root), rel=1e-3)
  assert 1e-4 < values['mean_code_error'] < 0.1
  assert 'mean_code_error' not in measured(diagnostics.measure(bo.adam(1e-3)))


def test_complex_parameters_are_measured_by_their_magnitude():
  z = {'w': np.array([3 + 4j, 0]), 'b': np.array([0j])}
  values = measured(diagnostics.measure(bo.sgd(0.5)), z, [z], dtype=jnp.complex64)
  assert values['gradient_rms'] == pytest.approx(5 / 3**0.5)
  assert values['update_max'] == pytest.approx(2.5)
  both = measured(diagnostics.measure(bo.compose(bo.complex_as_reals(), bo.adam(1e-3))), z, [z], dtype=jnp.complex64)
  assert both['direction_rms'] == pytest.approx((2 / 6) ** 0.5, rel=1e-5)  # of two reals of six


def test_nan_stays_visible_and_what_is_finite_is_finite():
  bad = [{'w': np.full((6, 5), np.nan), 'b': np.full(4, 1e15)}]
  values = measured(diagnostics.measure(bo.adam(1e-3), {'bias': 'b'}), grads=bad)
  assert math.isnan(values['gradient_rms'])
  assert math.isnan(values['update_max'])
  assert values['bias/gradient_rms'] == pytest.approx(1e15)
  assert all(map(math.isfinite, (v for name, v in values.items() if name.startswith('bias/'))))


def test_any_transformation_has_its_norms():
  values = measured(diagnostics.measure(optax.adam(0.01)))
  ours = measured(diagnostics.measure(bo.adam(0.01)))
  common = [name for name in values if name != 'state_bytes']
  assert common == ['step', 'gradient_rms', 'param_rms', 'update_rms', 'update_max', 'update_to_param', 'lost_share']
  assert {name: ours[name] for name in common} == pytest.approx({name: values[name] for name in common}, rel=1e-4)


def test_without_parameters_what_needs_them_is_left_out():
  tx, params = diagnostics.measure(bo.adam(1e-3)), as_arrays(PARAMS)
  _, state = tx.update(params, tx.init(params))
  values = diagnostics.read(state)
  assert 'update_rms' in values
  assert not {'param_rms', 'update_to_param', 'lost_share'} & set(values)


# Which elements, and when.


@pytest.mark.parametrize('shape', [(), (1,), (7,), (1000,), (64, 32), (3, 3, 64, 32), (2, 1000), (1000, 2), (0, 4)])
@pytest.mark.parametrize('sample', [1, 10, 100, None])
def test_a_sample_is_about_as_large_as_asked_and_evenly_spread(shape, sample):
  at = observed.places(shape, sample)
  size, found = math.prod(shape), np.zeros(shape)[at].size
  assert found <= (size if sample is None else max(2 * sample, 1))
  assert found >= (size if sample is None else min(size, sample / 4))


def test_a_sample_measures_its_elements_exactly():
  """Of 64 rows each 16th; sums stand for the whole array."""
  draw = np.random.default_rng(1).normal
  params, grads = {'w': draw(size=(64, 8)), 'b': draw(size=3)}, {'w': draw(size=(64, 8)), 'b': draw(size=3)}
  for store in ('float32', 'int8'):  # the dither of an element is that of its place
    tx = bo.adam(1e-2, store=store)
    few = measured(diagnostics.measure(tx, sample=32), params, [grads] * 3)
    part = lambda tree: {'w': tree['w'], 'b': tree['b']}
    _, state = train(tx, part(params), [grads] * 2)
    u, _ = tx.update(as_arrays(grads), state, as_arrays(params))
    rows, rest = np.asarray(u['w'], np.float64)[::16], np.asarray(u['b'], np.float64)
    expected = np.sqrt((16 * np.sum(rows**2) + np.sum(rest**2)) / (64 * 8 + 3))
    assert few['update_rms'] == pytest.approx(expected, rel=1e-4)
    assert few['update_max'] == pytest.approx(max(np.abs(rows).max(), np.abs(rest).max()), rel=1e-5)


def test_lines_that_look_at_whole_arrays_are_measured_whole():
  tx = bo.compose(bo.centralize(), bo.sgd(1.0))
  params = {'w': np.arange(32.0).reshape(8, 4), 'b': np.zeros(1)}
  few, all_ = (measured(diagnostics.measure(tx, sample=n), params, [params]) for n in (4, None))
  assert few == all_


@pytest.mark.parametrize('jit', [True, False], ids=['jit', 'eager'])
def test_every_n_steps(jit):
  tx, params = diagnostics.measure(bo.sgd(0.1), every=3), as_arrays(PARAMS)
  state, update, steps = tx.init(params), jax.jit(tx.update) if jit else tx.update, []
  assert diagnostics.read(state) == {'step': 0, 'state_bytes': 4}
  for g in GRADS:
    _, state = update(as_arrays(g), state, params)
    values = diagnostics.read(state)
    steps.append(values['step'])
    assert values['gradient_rms'] == pytest.approx(rms(flat(GRADS[int(values['step']) - 1])), rel=1e-5)
  assert steps == [1, 1, 3, 3, 3, 6, 6]


# It changes nothing.


FEW = ('adabelief', 'adabelief-int8')
COVERED = [
  pytest.param(row, id=str(row), marks=() if str(row) in FEW else pytest.mark.full)
  for row in ALGORITHM_ROWS
  if row.covering
]


@pytest.mark.parametrize('mode', ['xla', 'native'])
@pytest.mark.parametrize('row', COVERED)
def test_not_a_bit_of_the_training_changes(row, mode):
  """In a program that goes on with the updates, where another fusion would round in another way."""
  if mode == 'native' and not row.elementwise:
    pytest.skip('no machine loop')
  draw = np.random.default_rng(2).normal
  params = as_arrays({'w': draw(size=(96, 40)), 'b': draw(size=7)})

  def losses(tx, plain):
    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, t):
      grads = jax.grad(lambda p: sum(jnp.sum(jnp.sin(3 * x + t) * x) for x in jax.tree.leaves(p)))(params)
      updates, state = tx.update(grads, state, params)
      return optax.apply_updates(params, updates), state

    p = jax.tree.map(jnp.copy, params)
    state = tx.init(p)
    for t in range(8):
      p, state = step(p, state, jnp.float32(t))
    return p, state if plain else state.inner

  with bo.execution.use(mode):
    expected = losses(row.make(), plain=True)
    for options in ({'sample': None}, {'every': 3, 'sample': 64}):
      jax.tree.map(np.testing.assert_array_equal, losses(diagnostics.measure(row.make(), **options), False), expected)


@pytest.mark.parametrize('every', [FULL(1), 10])
@pytest.mark.parametrize('mode', ['xla', 'native'])
@pytest.mark.parametrize('tx', [bo.adabelief(0.1), FULL(bo.adamw(0.1, store='int8'))], ids=['float32', 'int8'])
def test_the_step_stays_in_place(tx, mode, every):
  """What is sampled is read before it is overwritten, without a copy of an array."""
  sample, shape = 1024, jax.ShapeDtypeStruct(LARGE, jnp.float32)
  wrapped = diagnostics.measure(tx, every=every, sample=sample)
  with bo.execution.use(mode):
    compiled = compiled_step(wrapped, shape, jax.eval_shape(wrapped.init, shape))
  whole = ','.join(map(str, LARGE))
  assert [line for line in copies(compiled.as_text()) if f'[{whole}]' in line] == []
  assert compiled.memory_analysis().temp_size_in_bytes < math.prod(LARGE)  # a quarter of an array


# Where it runs.


def run_grouped(tx, places=None):
  params = as_arrays(PARAMS)
  params = params if places is None else jax.device_put(params, places)
  update, state = jax.jit(tx.update), tx.init(params)
  for g in GRADS:
    updates, state = update(as_arrays(g), state, params)
    params = optax.apply_updates(params, updates)
  return diagnostics.read(state)


def close(found, expected):
  assert {n: v for n, v in found.items() if n != 'state_bytes'} == pytest.approx(
    {n: v for n, v in expected.items() if n != 'state_bytes'}, rel=1e-5, abs=1e-7
  )


@pytest.mark.parametrize(
  'wrap',
  [
    FULL(lambda m, tx: m(optax.chain(optax.identity(), tx))),
    FULL(lambda m, tx: optax.chain(optax.identity(), m(tx))),
    lambda m, tx: m(bo.by_path({'b': tx}, tx)),
    FULL(lambda m, tx: m(optax.masked(tx, True))),
    FULL(lambda m, tx: optax.apply_if_finite(m(tx), 3)),
    lambda m, tx: optax.MultiSteps(m(tx), 1).gradient_transformation(),
    FULL(lambda m, tx: optax.with_extra_args_support(m(tx))),
  ],
  ids=['chain', 'in a chain', 'by_path', 'masked', 'in apply_if_finite', 'in MultiSteps', 'with extra arguments'],
)
@pytest.mark.parametrize('every', [1, FULL(7)])
def test_wrappers_change_nothing(wrap, every):
  tx = bo.adabelief(1e-2, weight_decay=0.1)
  expected = measured(diagnostics.measure(tx, {'bias': 'b'}, every))
  close(measured(wrap(lambda one: diagnostics.measure(one, {'bias': 'b'}, every), tx)), expected)


def test_groups_of_by_path_have_their_own_learning_rates():
  tx = bo.by_path({'b': bo.sgd(1.0)}, bo.adam(0.1))
  values = measured(diagnostics.measure(tx, lambda path: f'layer {path}'))
  assert values['layer b/learning_rate'] == 1.0
  assert values['layer w/learning_rate'] == pytest.approx(0.1)
  assert values['learning_rate'] == pytest.approx((4 * 1.0 + 30 * 0.1) / 34)
  assert 'layer b/residual_to_gradient' not in values
  assert values['residual_to_gradient'] == values['layer w/residual_to_gradient']  # of those that have a mean


def test_injected_hyperparameters_are_read():
  tx = optax.inject_hyperparams(bo.adam)(learning_rate=optax.linear_schedule(1.0, 0.0, 10))
  assert measured(diagnostics.measure(tx))['learning_rate'] == pytest.approx(0.4)


def test_inside_of_scan():
  tx, params = diagnostics.measure(bo.adabelief(1e-2, weight_decay=0.1), {'bias': 'b'}), as_arrays(PARAMS)

  def step(carry, g):
    params, state = carry
    updates, state = tx.update(g, state, params)
    return (optax.apply_updates(params, updates), state), state.last

  grads = jax.tree.map(lambda *xs: jnp.stack(xs), *map(as_arrays, GRADS))
  (_, state), every = jax.lax.scan(step, (params, tx.init(params)), grads)
  close(diagnostics.read(state), measured(tx))
  for t in range(len(GRADS)):
    close(diagnostics.read(jax.tree.map(lambda x, t=t: x[t], every)), measured(tx, grads=GRADS[: t + 1]))


def test_with_train_state_and_nnx():
  tx = diagnostics.measure(bo.adam(1e-2))
  params, grads = as_arrays(PARAMS), as_arrays(GRADS[0])
  state = train_state.TrainState.create(apply_fn=None, params=params, tx=tx).apply_gradients(grads=grads)
  expected = measured(tx, grads=GRADS[:1])
  close(diagnostics.read(state), expected)

  class Model(nnx.Module):
    def __init__(self):
      self.w, self.b = nnx.Param(params['w']), nnx.Param(params['b'])

  model = Model()
  optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
  loss = lambda model: jnp.sum(grads['w'] * model.w[...]) + jnp.sum(grads['b'] * model.b[...])
  optimizer.update(model, nnx.grad(loss)(model))
  close(diagnostics.read(optimizer), expected)
  close(diagnostics.read(optimizer.opt_state), expected)


def mesh_of():
  return jax.make_mesh((4, 2), ('data', 'model'), axis_types=(jax.sharding.AxisType.Auto,) * 2)


SPREAD = {'w': np.random.default_rng(3).normal(size=(64, 32)), 'b': np.random.default_rng(4).normal(size=16)}


@pytest.mark.parametrize('sample', [FULL(None), 64])
def test_sharded_arrays_are_measured_as_a_whole(sample):
  tx = diagnostics.measure(bo.adabelief(1e-2, weight_decay=0.1), {'bias': 'b'}, sample=sample)
  where = {'w': NamedSharding(mesh_of(), P('data', 'model')), 'b': NamedSharding(mesh_of(), P('model'))}
  expected = measured(tx, SPREAD, [SPREAD] * 3)
  params = jax.device_put(as_arrays(SPREAD), where)
  state, update = jax.jit(tx.init)(params), jax.jit(tx.update)
  for _ in range(3):
    updates, state = update(jax.device_put(as_arrays(SPREAD), where), state, params)
    params = optax.apply_updates(params, updates)
  close(diagnostics.read(state), expected)


def test_zero1_under_jit():
  everywhere = NamedSharding(mesh_of(), P())
  tx = bo.adabelief(1e-2, weight_decay=0.1)
  wrapped = diagnostics.measure(sharding.zero1(tx, everywhere, min_size=0))
  params = jax.device_put(as_arrays(SPREAD), everywhere)
  state, update = wrapped.init(params), jax.jit(wrapped.update)
  for _ in range(3):
    updates, state = update(params, state, params)
  assert state.inner.slots['mu']['w'].sharding.spec[0] == 'data'
  assert diagnostics.read(state)['update_rms'] == pytest.approx(rms(flat(updates)), rel=1e-5)
  assert diagnostics.read(state)['residual_to_gradient'] == pytest.approx(0.9**3, rel=1e-4)


def test_inside_of_shard_map_sums_run_over_the_devices():
  tx, mesh = diagnostics.measure(bo.adabelief(1e-2, weight_decay=0.1), {'bias': 'b'}), mesh_of()
  params = as_arrays(SPREAD)
  specs = {'w': P('data', 'model'), 'b': P()}
  states = lambda leaf: diagnostics.MeasureState(bo.State(P(), {'mu': leaf, 'nu': leaf}, {}), P(), P())

  def three(params):
    state = jax.tree.map(lambda x: x, tx.init(params))
    for _ in range(3):
      updates, state = tx.update(params, state, params)
    return updates, state

  each = jax.jit(jax.shard_map(three, mesh=mesh, in_specs=(specs,), out_specs=(specs, states(specs))))
  updates, state = each(params)
  alone = tx.init(params)
  for _ in range(3):
    expected, alone = tx.update(params, alone, params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, 1e-6), updates, expected)
  close(diagnostics.read(state), diagnostics.read(alone))


def test_derivatives_do_not_see_it():
  """The derivative of a step by the learning rate, with and without."""

  def after(rate, wrap):
    tx, params = wrap(bo.adam(rate)), as_arrays(PARAMS)
    updates, _ = tx.update(as_arrays(GRADS[0]), tx.init(params), params)
    return optax.apply_updates(params, updates)['w'].sum()

  slope = [jax.grad(after)(jnp.float32(0.1), wrap) for wrap in (lambda tx: tx, diagnostics.measure)]
  assert slope[0] == slope[1] != 0


@pytest.mark.full
def test_a_population_of_optimizers():
  def one(rate):
    tx, params = diagnostics.measure(bo.adam(rate), every=2), as_arrays(PARAMS)
    return tx.update(as_arrays(GRADS[0]), tx.init(params), params)[1].last

  many = jax.vmap(one)(jnp.asarray([0.1, 0.2]))
  rates = [diagnostics.read(jax.tree.map(lambda x, i=i: x[i], many))['learning_rate'] for i in range(2)]
  assert rates == pytest.approx([0.1, 0.2])


def test_nothing_is_nan_under_debug_nans():
  params = {'w': np.zeros((2, 2)), 'b': np.zeros(1)}
  with jax.debug_nans(True):
    values = measured(diagnostics.measure(bo.adabelief(1e-3, rectify=True)), params, [params])
  assert values['gradient_to_root_nu'] == 0
  assert values['update_to_param'] == 0


# A value, and what it refuses.


def test_it_is_a_value():
  make = lambda: diagnostics.measure(bo.adam(1e-3), {'bias': '*b'}, 10)
  assert make() == make()
  assert hash(make()) == hash(make())
  assert make() != diagnostics.measure(bo.adam(1e-3), {'bias': '*b'}, 9)
  assert pickle.loads(pickle.dumps(make())) == make()
  assert repr(diagnostics.measure(bo.sgd(0.1))) == (
    'measure(scale_by_learning_rate(learning_rate=0.1, flip_sign=True), groups=None, every=1, sample=8192)'
  )
  assert isinstance(make(), optax.GradientTransformationExtraArgs)


def test_its_state_is_one_that_tools_know():
  tx, params = diagnostics.measure(bo.adam(1e-3), {'bias': 'b'}), as_arrays(PARAMS)
  state = tx.init(params)
  again = serialization.from_bytes(state, serialization.to_bytes(train(tx)[1]))
  close(diagnostics.read(again), measured(tx))
  shapes = jax.tree.map(lambda x: (x.shape, x.dtype), state)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), tx.update(params, state, params)[1]) == shapes
  assert jax.tree.structure(optax.tree.map_params(tx, lambda x: 2 * x, state)) == jax.tree.structure(state)
  assert diagnostics.describe(tx).wrappers == ('measure',)


def test_skipped_steps_are_found_by_their_name():
  class Guarded(NamedTuple):
    inner: Any
    skipped: Any

  state = Guarded(train(diagnostics.measure(bo.sgd(0.1)))[1], jnp.int32(3))
  assert diagnostics.read(state)['skipped'] == 3
  inside = state.inner._replace(inner=Guarded(state.inner.inner, jnp.int32(2)))
  assert diagnostics.read(inside)['skipped'] == 2
  assert 'skipped' not in diagnostics.read(state.inner)


@pytest.mark.parametrize(
  ('arguments', 'error', 'words'),
  [
    ({'tx': bo.adam}, TypeError, 'tx must be a gradient transformation'),
    ({'every': 0}, ValueError, 'every must be an integer >= 1, got 0'),
    ({'every': 1.5}, TypeError, 'every must be an integer'),
    ({'sample': 0}, ValueError, 'sample must be an integer >= 1, got 0'),
    ({'groups': ['b']}, TypeError, 'groups must be a mapping'),
    ({'groups': {'b': 1}}, TypeError, "groups must map names to globs or compiled regular expressions, got 'b': 1"),
    ({'groups': {'total': 'b'}}, ValueError, "groups must not have the name 'total'"),
    (
      {'groups': {'one': 'nothing'}},
      ValueError,
      "groups: 'nothing' of 'one' matches no parameter. The paths are: b, w",
    ),
    ({'groups': lambda path: len(path)}, ValueError, "groups must give names other than 'total', got 1"),
  ],
)
def test_bad_arguments_are_refused(arguments, error, words):
  with pytest.raises(error, match=re.escape(words)):
    diagnostics.measure(**{'tx': bo.adam(1e-3), **arguments}).init(as_arrays(PARAMS))


@pytest.mark.parametrize(
  'wrap', [lambda tx: optax.apply_if_finite(tx, 3), lambda tx: optax.MultiSteps(tx, 2).gradient_transformation()]
)
def test_a_recipe_in_a_program_of_its_own_cannot_be_seen(wrap):
  with pytest.raises(ValueError, match='put measure inside of it'):
    measured(diagnostics.measure(wrap(bo.adam(1e-3))))


@pytest.mark.parametrize('wrap', [bo.skip_unhealthy, lambda tx: bo.accumulate(tx, 2)])
def test_a_guard_that_was_compiled_before_is_not_seen_either(wrap):
  guard = wrap(bo.adam(1e-3))
  measure, params = diagnostics.measure(guard), as_arrays(PARAMS)
  for _ in range(2):
    with pytest.raises(ValueError, match='put measure inside of it'):
      measure.update(params, measure.init(params), params)
    guard.update(params, guard.init(params), params)


def test_other_states_are_refused():
  tx, params = diagnostics.measure(bo.adam(1e-3)), as_arrays(PARAMS)
  with pytest.raises(ValueError, match='measure needs a MeasureState'):
    tx.update(params, bo.adam(1e-3).init(params), params)
  with pytest.raises(ValueError, match='state must hold the state of one `measure`, but it holds 0'):
    diagnostics.read(bo.adam(1e-3).init(params))
  with pytest.raises(ValueError, match='but it holds 2'):
    diagnostics.read([tx.init(params)] * 2)


# Tables and pictures.


def test_the_table_has_a_column_per_group_and_a_row_per_quantity():
  _, state = train(diagnostics.measure(bo.adabelief(1e-3), {'bias': 'b'}))
  table, values = diagnostics.table(state), diagnostics.read(state)
  assert [column.header for column in table.columns] == ['quantity', 'total', 'bias', 'rest']
  rows = dict(zip(table.columns[0].cells, zip(*(c.cells for c in table.columns[1:]), strict=True), strict=True))
  assert list(rows) == [name for name in (*diagnostics.QUANTITIES, 'state_bytes') if name in values]
  assert rows['update_rms'] == tuple(f'{values[p + "update_rms"]:.4g}' for p in ('', 'bias/', 'rest/'))
  assert rows['state_bytes'] == (f'{values["state_bytes"]:,.0f}', '', '')


def test_the_plot_draws_each_quantity_and_hides_nothing(tmp_path):
  draw = np.random.default_rng(5).uniform
  names = [*diagnostics.QUANTITIES, *(f'bias/{name}' for name in diagnostics.QUANTITIES)]
  history = [{'step': float(t), **{name: draw() for name in names}} for t in range(1, 8)]
  path = tmp_path / 'panel.png'
  figure = diagnostics.plot(history, path)
  assert path.stat().st_size > 0
  lines = {line.get_label(): line.get_ydata() for axes in figure.axes for line in axes.get_lines()}
  assert set(lines) == {name for name in history[0] if name in diagnostics.QUANTITIES}
  np.testing.assert_array_equal(lines['update_rms'], [entry['update_rms'] for entry in history])
  canvas = FigureCanvasAgg(figure)
  canvas.draw()
  renderer = canvas.get_renderer()
  for axes in figure.axes:
    assert not axes.get_legend().get_window_extent(renderer).overlaps(axes.patch.get_window_extent(renderer))
    assert not axes.get_legend().get_window_extent(renderer).overlaps(axes.title.get_window_extent(renderer))
  bias = diagnostics.plot(history, group='bias')
  assert [axes.get_title() for axes in bias.axes] == [axes.get_title() for axes in figure.axes]
  for nothing in ([], [{'step': 0.0}]):
    with pytest.raises(ValueError, match='history has nothing to draw'):
      diagnostics.plot(nothing)
  with pytest.raises(ValueError, match="of the group 'none'"):
    diagnostics.plot(history, group='none')
