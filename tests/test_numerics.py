"""Every update against the textbook in extended precision (`reference.py`), and the same rules where numbers end.

The error of a step is the largest difference in a column of 64 elements relative to the column's largest element, and
the bounds hold for every single one of 200 steps: 2e-6 in float32, 1e-12 in float64.
"""

import decimal
import functools
import inspect
import math
from decimal import Decimal

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import Table, precision, relative_error, take_steps, x64
from hypothesis import strategies as st
from reference import lengths, reference, root_of_ratio

import belief_optax as bo
from belief_optax import formulas

B2 = (0.6, 0.7, 0.9, 0.99, 0.999, 0.9995, 0.9999, 0.99999)
EXTREMES = (0.6, 0.99999)
STEPS, SIZE = 200, 64
FLOAT32, FLOAT64 = 2e-6, 1e-12
RATE = 1e-3


@functools.cache
def columns(dtype, steps=STEPS, size=SIZE):
  """Gradients [steps, 3, size] and params [3, size]: standard normal; tiny, in gradient and parameter; 80 % zeros."""
  draw = np.random.default_rng(0)
  grads, params = draw.standard_normal((steps, 3, size)), draw.standard_normal((3, size))
  grads[:, 1] *= 1e-6
  params[1] *= 1e-6
  grads[:, 2] *= draw.random((steps, size)) < 0.2
  return grads.astype(dtype), params.astype(dtype)


def make(name, **options):
  """An algorithm; `scale_by_belief` has no learning rate of its own."""
  if name == 'scale_by_belief':
    return bo.compose(bo.scale_by_belief(**options), bo.scale_by_learning_rate(RATE))
  return getattr(bo, name)(RATE, **options)


def second_rate(name):
  """What an algorithm calls the decay rate of its second moment; None if it has none."""
  return {'rmsprop': 'decay', 'adagrad': None, 'sgd': None, 'lars': None}.get(name, 'b2')


# The reference algorithms: rectified, and the plain mean until that is possible.
MEAN = {'degenerate_to_sgd': True}
OFFICIAL = {'rectify': True, **MEAN}

DEFAULTS = [(name, {}) for name in ('adabelief', 'scale_by_belief', 'adam', 'amsgrad', 'radam', 'rmsprop')]
# An option is ill-conditioned by nature, so that a larger eps has to cover what rounding decides:
# - rmsprop centered and bias-corrected: the second variance is (g_2 - g_1)^2 / 4, so that the step is largest, and
#   least exact, in the element whose two gradients happen to be nearly equal.
# Others lose digits to what they keep, in float32 up to 8e-6 after 200 steps, so their rate is named:
# - adamax decays by products alone, whose roundings add up: most at b2 = 0.99999;
# - yogi adds and never forgets; adopt's moment is only decayed where the first gradient was large, at b2 = 0.99999;
# - mars multiplies changes by gamma b1 / (1 - b1), 10 here, and at b2 = 0.6 the scale of a change is forgotten at once.
OPTIONS = [
  *((name, {}) for name in ('adamw', 'nadam', 'nadamw', 'adagrad', 'sgd')),
  ('adabelief', OFFICIAL),
  ('radam', MEAN),
  ('adabelief', {**OFFICIAL, 'degenerate_to_sgd': False}),
  ('adabelief', {**OFFICIAL, 'amsgrad': True}),
  ('adabelief', {'amsgrad': True, 'rectify': False}),
  ('adabelief', {**OFFICIAL, 'nesterov': True}),
  ('adabelief', {'nesterov': True, 'rectify': False}),
  ('adabelief', {**OFFICIAL, 'residual': 'debiased'}),
  ('adabelief', {'residual': 'debiased', 'rectify': False}),
  ('adabelief', {**OFFICIAL, 'residual': 'debiased', 'nesterov': True, 'amsgrad': True}),
  ('adabelief', {**OFFICIAL, 'residual': 'previous'}),
  ('adabelief', {'residual': 'previous', 'rectify': False}),
  ('adabelief', {**OFFICIAL, 'eps_scaled': True, 'eps': 1e-3}),
  ('adabelief', {'eps_scaled': True, 'eps': 1e-3, 'rectify': False}),
  ('adabelief', {**OFFICIAL, 'eps': 1e-3}),
  ('adabelief', {**OFFICIAL, 'max_step': 0.3}),
  ('adabelief', {'eps': 0.0, 'eps_root': 0.0, 'rectify': False}),
  *(
    ('adabelief', {**OFFICIAL, 'weight_decay': 0.01, 'weight_decay_mode': m})
    for m in ('decoupled', 'l2', 'fixed', 'independent')
  ),
  ('adam', {'eps': 1e-3}),
  ('adam', {'eps_root': 1e-3}),
  ('adam', {'eps': 0.0}),
  ('adam', {'bias_correction': False}),
  ('adam', {'eps_scaled': True, 'eps': 1e-3}),
  ('adamw', {'weight_decay_mode': 'l2', 'weight_decay': 0.1}),
  ('adamw', {'weight_decay_mode': 'fixed', 'weight_decay': 0.1}),
  ('adamw', {'weight_decay_mode': 'cautious', 'weight_decay': 0.1}),
  ('nadam', {'b1': 0.9999}),
  ('nadam', {'bias_correction': False}),
  ('nadam', {'eps_scaled': True, 'eps': 1e-3}),
  ('nadamw', {'weight_decay': 0.1}),
  ('amsgrad', {'max_of': 'raw'}),
  ('amsgrad', {'max_of': 'raw', 'bias_correction_mu': False}),
  ('amsgrad', {'bias_correction_nu': False}),
  ('amsgrad', {'bias_correction_mu': False, 'bias_correction_nu': False}),
  ('radam', {**MEAN, 'threshold': 4.0}),
  ('radam', {**MEAN, 'degenerate_to_sgd': False}),
  ('radam', {**MEAN, 'nesterov': True}),
  ('radam', {**MEAN, 'eps_scaled': True, 'eps': 1e-3}),
  ('radam', {**MEAN, 'eps_scaled': True, 'nesterov': True}),
  ('rmsprop', {'centered': True}),
  ('rmsprop', {'momentum': 0.9}),
  ('rmsprop', {'momentum': 0.9, 'nesterov': True, 'weight_decay': 0.1}),
  ('rmsprop', {'eps_in_sqrt': False, 'eps': 1e-3}),
  ('rmsprop', {'initial_scale': 1.0}),
  ('rmsprop', {'bias_correction': True}),
  ('rmsprop', {'centered': True, 'bias_correction': True, 'eps': 1e-2}),
  ('rmsprop', {'centered': True, 'eps_in_sqrt': False, 'eps': 1e-3, 'momentum': 0.9, 'initial_scale': 1.0}),
  ('adagrad', {'initial_accumulator_value': 0.0}),
  ('adagrad', {'eps_in_sqrt': False, 'eps': 1e-3}),
  ('sgd', {'momentum': 0.9}),
  ('sgd', {'momentum': 0.9, 'nesterov': True}),
  ('sgd', {'momentum': 0.9, 'dampening': 0.9}),
  ('sgd', {'momentum': 0.9, 'dampening': 0.5, 'first_buffer': 'undampened', 'nesterov': True}),
  ('sgd', {'momentum': 0.9, 'weight_decay': 0.1, 'weight_decay_mode': 'l2'}),
  ('laprop', {}),
  ('laprop', {'b1': 0.99, 'eps': 1e-3, 'weight_decay': 0.1}),
  ('adamax', {'b2': 0.9}),
  ('adamax', {'b2': 0.99}),
  ('adamax', {'b2': 0.9, 'eps': 1e-3, 'weight_decay': 0.1, 'weight_decay_mode': 'cautious'}),
  ('lion', {}),
  ('lion', {'b1': 0.95, 'weight_decay': 0.1}),
  ('yogi', {'b2': 0.9}),
  ('yogi', {'b2': 0.99999, 'initial_accumulator_value': 1.0}),
  ('adam_atan2', {}),
  ('adam_atan2', {'a': 1.0, 'b': 2.0}),
  ('adopt', {'b2': 0.6}),
  ('adopt', {'b2': 0.9999}),
  ('adopt', {'clip_power': None, 'eps': 0.1}),
  ('adopt', {'clip_power': 0.333, 'weight_decay': 0.1}),
  ('adan', {}),
  ('adan', {'weight_decay_mode': 'proximal', 'weight_decay': 0.1}),
  ('rmsprop', {'momentum': 0.9, 'weight_decay_mode': 'proximal', 'weight_decay': 0.1}),
  ('adan', {'b1': 0.9, 'b3': 0.9, 'weight_decay': 0.1}),
  ('ademamix', {}),
  ('ademamix', {'warmup_steps': 150, 'alpha': 8.0, 'weight_decay': 0.1}),
  ('mars', {}),
  ('mars', {'b2': 0.99, 'gamma': 0.5, 'max_norm': 100.0, 'weight_decay': 0.1}),
  ('padam', {}),
  ('padam', {'partial': 0.125, 'amsgrad': False, 'weight_decay': 0.1}),
  ('acprop', {}),
  ('acprop', {'degenerate_to_sgd': True, 'eps_root': 1e-8, 'weight_decay': 0.1}),
  ('eadam', {}),
  ('eadam', {'eps': 1e-3, 'eps_root': 1e-4}),
  ('adamomentum', {}),
  ('adamomentum', {'eps_root': 1e-8, 'b1': 0.5}),
  ('lamb', {}),
  ('lamb', {'weight_decay': 0.1, 'eps_root': 1e-3}),
  ('lars', {}),
  ('lars', {'weight_decay': 0.1, 'trust_coefficient': 0.1, 'eps': 1e-3, 'nesterov': True}),
]


def label(case):
  return '-'.join([case[0], *(f'{k}={v}' for k, v in case[1].items())])


def further(case):
  """The first cases of an algorithm say most: the others are the full matrix. AdaBelief has four."""
  first = [options for name, options in OPTIONS if name == case[0]][: 4 if case[0] == 'adabelief' else 1]
  return () if case[1] in first else pytest.mark.full


every_case = pytest.mark.parametrize(
  'case',
  [
    *(pytest.param(case, id=label(case)) for case in DEFAULTS),
    *(pytest.param(case, id=label(case), marks=further(case)) for case in OPTIONS),
  ],
)


def with_rates(case, rates):
  """The options of a case, once per rate of the second moment if it has one."""
  name, options = case
  rate = second_rate(name)
  waits = (name == 'radam' or options.get('rectify')) and not options.get('degenerate_to_sgd')
  rates = dict.fromkeys(max(b, 0.7) for b in rates) if waits else rates  # at 0.6 nothing would ever move: an error
  return [{rate: b, **options} for b in rates] if rate else [options]


def worst_errors(name, grid, dtype, as_arrays=False):
  """The worst error over all steps and columns, per set of options; `as_arrays` makes a population of them."""
  grads, params = columns(dtype)
  rate = second_rate(name)
  if as_arrays and rate:
    one = lambda b: take_steps([make(name, **{**grid[0], rate: b})], grads, params)[0][0]
    runs = jax.vmap(one)(jnp.asarray([options[rate] for options in grid], dtype))
    grid = [{**options, rate: float(dtype(options[rate]))} for options in grid]  # what has arrived
  else:
    runs = [updates for updates, _ in take_steps([make(name, **options) for options in grid], grads, params)]
  expected = [reference(name, grads, params, learning_rate=RATE, **options) for options in grid]
  return [relative_error(updates, e).max() for updates, e in zip(runs, expected, strict=True)]


# The algorithms.


@every_case
def test_every_float32_update_is_the_textbooks(case):
  grid = with_rates(case, B2 if case in DEFAULTS else EXTREMES)
  errors = worst_errors(case[0], grid, np.float32)
  assert max(errors) <= FLOAT32, list(zip(grid, errors, strict=True))


@every_case
def test_every_float64_update_is_the_textbooks(case):
  grid = with_rates(case, (*EXTREMES, 0.999) if case in DEFAULTS else EXTREMES)
  with x64():
    errors = worst_errors(case[0], grid, np.float64)
  assert max(errors) <= FLOAT64, list(zip(grid, errors, strict=True))


@pytest.mark.parametrize(
  'case',
  [
    ('adabelief', {**OFFICIAL}),
    ('adabelief', {**OFFICIAL, 'residual': 'previous', 'eps_scaled': True, 'b1': jnp.float32(0.75)}),
    ('nadam', {'b1': jnp.float32(0.75)}),
    ('rmsprop', {'centered': True}),
  ],
  ids=label,
)
def test_rates_that_are_float32_arrays(case):
  grid = with_rates(case, B2)
  errors = worst_errors(case[0], grid, np.float32, as_arrays=True)
  assert max(errors) <= FLOAT32, list(zip(grid, errors, strict=True))


@pytest.mark.parametrize(
  'case',
  [
    ('adabelief', {**OFFICIAL, 'b1': 0.0}),
    ('adam', {'b1': 0.0}),
    ('adam', {'b2': 0.0}),
    ('adam', {'b1': 0.0, 'b2': 0.0}),
    ('nadam', {'b1': 0.0}),
    ('rmsprop', {'decay': 0.0}),
  ],
  ids=label,
)
def test_a_rate_of_zero_keeps_nothing(case):
  (error,) = worst_errors(case[0], [case[1]], np.float32)
  assert error <= FLOAT32


n = np.arange(STEPS + 2)
RISING = 0.9 + 0.099 * np.minimum(n / 100, 1)
FALLING = 0.9 - 0.4 * np.minimum(n / 100, 1)
SLOW = 1 - 10 ** -(1 + 4 * np.minimum(n / 100, 1))  # up to 0.99999
CONSTANT = np.full(n.shape, 0.99999)
WARMUP = RATE * np.minimum((n + 1) / 10, 1)
SCHEDULES = [
  ('adabelief', {**OFFICIAL, 'b1': FALLING, 'b2': RISING}),
  ('adabelief', {'b1': FALLING, 'b2': SLOW, 'rectify': False, 'nesterov': True}),
  ('adabelief', {**OFFICIAL, 'b2': CONSTANT}),
  ('adabelief', {**OFFICIAL, 'b1': RISING, 'residual': 'debiased'}),
  *(
    ('adabelief', {**OFFICIAL, 'learning_rate': WARMUP, 'weight_decay': 0.01, 'weight_decay_mode': m})
    for m in ('decoupled', 'l2', 'fixed', 'independent')
  ),
  ('adabelief', {'max_step': FALLING, 'learning_rate': WARMUP}),
  ('adam', {'b1': RISING, 'b2': SLOW}),
  ('adam', {'b1': RISING, 'b2': SLOW, 'eps_scaled': True}),
  ('adamw', {'weight_decay': FALLING, 'learning_rate': WARMUP}),
  ('nadam', {'b1': RISING}),
  ('nadam', {'b1': RISING, 'bias_correction': False}),
  ('amsgrad', {'b2': FALLING, 'max_of': 'raw'}),
  ('radam', {**MEAN, 'b2': SLOW}),
  ('radam', {**MEAN, 'b2': CONSTANT}),
  ('rmsprop', {'decay': RISING, 'momentum': FALLING, 'learning_rate': WARMUP, 'weight_decay': 0.1}),
  ('rmsprop', {'decay': RISING, 'centered': True}),
  ('rmsprop', {'decay': RISING, 'centered': True, 'bias_correction': True, 'eps': 1e-2}),
  ('sgd', {'momentum': RISING, 'dampening': FALLING, 'learning_rate': WARMUP}),
]


def is_schedule(value):
  return isinstance(value, np.ndarray)


@pytest.mark.parametrize(('name', 'options'), SCHEDULES, ids=lambda x: '-'.join(x) if isinstance(x, dict) else x)
def test_schedules(name, options):
  """The bias mass of a scheduled rate is 1 minus the product of its values so far, not 1 - b_t^t."""
  for dtype, bound in (np.float32, FLOAT32), (np.float64, FLOAT64):
    grads, params = columns(dtype)
    schedules = {k: Table(v, dtype) if is_schedule(v) else v for k, v in options.items()}
    hyper = {'learning_rate': RATE, **schedules}
    with precision(dtype):
      ((updates, _),) = take_steps([getattr(bo, name)(**hyper)], grads, params)
    assert relative_error(updates, reference(name, grads, params, **hyper)).max() <= bound, dtype


def exact(decimals):
  return np.array([np.longdouble(str(v)) for v in decimals])


# The branch of rectification.

TS = np.arange(1, STEPS + 1)
# In float32 0.6 rounds up, to a rho_inf of 4 + 3e-7: no float32 can tell whether rho_t has passed the threshold 4.
GRID = [(b2, threshold) for b2 in B2 for threshold in (4.0, 5.0)]
ROUNDED_GRID = [(b2, threshold) for b2, threshold in GRID if (b2, threshold) != (0.6, 4.0)]
FEW = [(0.7, 4.0), (0.7, 5.0), (0.9995, 5.0), (0.99999, 4.0), (0.99999, 5.0)]


def expected_branch(b2, threshold):
  """Which steps are adaptive, and their r_t."""
  rhos = [lengths(Decimal(float(b2)), t) for t in TS.tolist()]
  adaptive = np.array([rho >= Decimal(threshold) for rho, _ in rhos])
  return adaptive, exact([root_of_ratio(*pair) for pair, on in zip(rhos, adaptive, strict=True) if on])


def moving_steps(txs):
  """At which steps each optimizer moves: without the fallback it stands still while rho_t is intractable."""
  return [np.asarray(updates) != 0 for updates, _ in take_steps(txs, jnp.ones(STEPS), jnp.float32(0))]


def check_moves(txs, grid, rounding):
  for steps, (b2, threshold) in zip(moving_steps(txs), grid, strict=True):
    expected, _ = expected_branch(rounding(b2), threshold)
    np.testing.assert_array_equal(steps, expected, err_msg=f'{b2=}, {threshold=}')


def still(b2, threshold, make=bo.radam):
  return make(1.0, b1=0.5, b2=b2, threshold=threshold, degenerate_to_sgd=False)


@pytest.mark.parametrize(('b2', 'threshold'), GRID)
def test_the_branch_is_right_at_every_step_for_numbers(b2, threshold):
  """All steps at once, in the scalars of the line."""
  (line,) = bo.rectify(b2, threshold).lines
  adaptive, r = line.scalars(bo.Now(jnp.asarray(TS - 1), {}, {}))
  expected, factors = expected_branch(b2, threshold)
  np.testing.assert_array_equal(np.broadcast_to(adaptive, TS.shape), expected)
  if threshold == 5:  # rho_t is as good at threshold 4, but there rho_t - 4 may be small
    assert relative_error(np.asarray(r)[expected][:, None], factors[:, None]).max(initial=0) <= 5e-7


def test_the_branch_is_right_at_every_step_of_a_run():
  check_moves([still(*pair) for pair in FEW], FEW, float)
  adabelief = [bo.adabelief(1.0, b2=b2, rectify=True) for b2 in (0.7, 0.99999)]
  check_moves(adabelief, [(0.7, 5.0), (0.99999, 5.0)], float)


@pytest.mark.parametrize(('b2', 'threshold'), [(0.6, 5.0), (0.0, 5.0), (0.65, 5.0), (0.55, 4.0), (0.7, 6.0)])
def test_what_would_never_move_is_refused(b2, threshold):
  """Numbers alone: what arrives as data is not known here."""
  with pytest.raises(ValueError, match=rf'b2={b2} never lets a step be rectified.* at threshold={threshold}, or'):
    still(b2, threshold)
  assert not moving_steps([still(jnp.float32(b2), threshold)])[0].any()
  for at_first in (bo.radam(1.0, b2=b2, threshold=threshold, degenerate_to_sgd=True), bo.adabelief(1.0, b2=b2)):
    assert moving_steps([at_first])[0].any()


def test_the_least_rate_that_can_be_rectified():
  """What the error names: 2/3 at the threshold of the paper's code."""
  with pytest.raises(ValueError, match=r'b2 must be greater than 0\.6667 at threshold=5\.0, or degenerate_to_sgd=True'):
    bo.adabelief(1.0, b2=0.666, rectify=True)
  assert moving_steps([bo.adabelief(1.0, b2=0.667, rectify=True)])[0].any()


def test_the_branch_is_right_at_every_step_for_arrays():
  b2, threshold = (jnp.asarray(column, jnp.float32) for column in zip(*ROUNDED_GRID, strict=True))
  moves = jax.vmap(lambda *pair: take_steps([still(*pair)], jnp.ones(STEPS), jnp.float32(0))[0][0])(b2, threshold)
  for steps, pair in zip(np.asarray(moves) != 0, ROUNDED_GRID, strict=True):
    np.testing.assert_array_equal(steps, expected_branch(np.float32(pair[0]), pair[1])[0], err_msg=str(pair))


def test_the_branch_is_right_at_every_step_under_inject_hyperparams():
  txs = [still(*pair, make=optax.inject_hyperparams(bo.radam)) for pair in ROUNDED_GRID]
  check_moves(txs, ROUNDED_GRID, np.float32)


def test_the_branch_is_right_at_every_step_for_schedules():
  txs = [still(optax.constant_schedule(b2), threshold) for b2, threshold in ROUNDED_GRID]
  check_moves(txs, ROUNDED_GRID, np.float32)
  # A schedule counts as the constant rate with the same product.
  (steps,) = moving_steps([still(Table(SLOW), 5.0)])
  rates = [Decimal(float(b)) for b in SLOW.astype(np.float32)]
  means = [math.prod(rates[:t], start=Decimal(1)) ** (1 / Decimal(t)) for t in TS.tolist()]
  np.testing.assert_array_equal(steps, [lengths(b, t)[0] >= 5 for t, b in enumerate(means, 1)])


def test_the_mass_of_a_schedule_stays_exact():
  """Its age is a sum of thousands of equal numbers, which a float32 alone has wrong by 1.5e-5 after 4,000 steps."""
  steps, b2 = 6000, np.float32(0.9995)
  tx = bo.compose(bo.second_moment(0.0), bo.bias_correct(b2=optax.constant_schedule(b2)), bo.precondition(0.0))
  ((updates, _),) = take_steps([tx], jnp.ones(steps), jnp.float32(0))  # 1 / sqrt(1 / mass)
  expected = np.sqrt(-np.expm1(np.arange(1, steps + 1) * np.log(np.longdouble(b2))))
  assert np.abs(np.asarray(updates) / expected - 1).max() <= 5e-7


@pytest.mark.parametrize(
  ('b2', 'at_4', 'at_5'),
  [
    *((b2, 5, 6) for b2 in B2[2:]),
    (0.9, 5, 6),
    (0.95, 5, 6),
    (0.999999, 5, 6),
    (0.8, 5, 7),
    (0.75, 6, 8),
    (0.7, 6, 10),
    (0.6, None, None),
    (0.0, None, None),
  ],
)
def test_first_tractable_step(b2, at_4, at_5):
  """Known facts; rho at 0.6 tends to 4, so that r_t would divide by 0."""
  assert (formulas.first_tractable_step(b2, 4.0), formulas.first_tractable_step(b2, 5.0)) == (at_4, at_5)


# The formulas.

AGES = (*range(1, 21), 100, 10**4, 10**6, 2**31 - 1)


def worst(actual, expected):
  """The worst relative error."""
  actual, expected = np.asarray(actual, np.longdouble), exact(expected)
  return np.max(np.abs(actual - expected) / np.abs(expected))


@pytest.mark.parametrize('b2', B2)
@pytest.mark.parametrize('kind', ['host', 'number', 'array'])
def test_formulas(b2, kind):
  """In float64 on the host; in float32 in the compiled step, whether b2 is a number of the host or an array."""
  lam = formulas.decay_exponent(jnp.float32(b2) if kind == 'array' else b2)
  ts = [float(t) if kind == 'host' else jnp.float32(t) for t in AGES]
  b = Decimal(float(np.float32(b2)) if kind == 'array' else b2)
  bound = 1e-15 if kind == 'host' else 5e-7
  assert worst([formulas.bias_mass(t * lam) for t in ts], [1 - b**t for t in AGES]) <= bound

  exact_rho, (exact_limit, *_) = zip(*(lengths(b, t) for t in AGES), strict=True)
  rho = [formulas.effective_length(t * lam, lam) for t in ts]
  limit = formulas.effective_length_limit(lam)
  assert worst(rho, exact_rho) <= bound
  assert worst([limit], [exact_limit]) <= bound

  tractable = [(a, e) for a, e in zip(rho, exact_rho, strict=True) if e >= 5]
  if tractable:
    r = [formulas.rectification(a, limit, True) for a, _ in tractable]
    assert worst(r, [root_of_ratio(e, exact_limit) for _, e in tractable]) <= 5e-7


def test_h():
  x = np.float32([1e-7, 1e-5, 1e-3, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99999, 1, 1.00001, 1.5, 3, 10, 50, 100, 700, 1e4])
  with decimal.localcontext(prec=50):
    expected = [1 - Decimal(float(v)) / (Decimal(float(v)).exp() - 1) for v in x]
  assert worst(formulas.h(jnp.asarray(x)), expected) <= 5e-7
  assert worst([formulas.h(float(v)) for v in x], expected) <= 1e-15


# optax.

SAME = [
  ('scale_by_belief', optax.scale_by_belief, {}),
  ('adabelief', optax.adabelief, {'rectify': False}),
  ('adabelief', optax.adabelief, {'rectify': False, 'nesterov': True, 'b1': 0.8, 'b2': 0.99}),
  ('adam', optax.adam, {}),
  ('adam', optax.adam, {'eps': 1e-3, 'eps_root': 1e-3, 'b1': 0.8, 'b2': 0.9}),
  ('nadam', optax.nadam, {}),
  ('adamw', optax.adamw, {'weight_decay': 0.1}),
  ('nadamw', optax.nadamw, {'weight_decay': 0.1}),
  ('radam', optax.radam, MEAN),
  ('radam', optax.radam, {**MEAN, 'b2': 0.9, 'eps': 1e-3, 'nesterov': True}),
  ('radam', optax.radam, {**MEAN, 'b2': 0.99, 'threshold': 4.0}),
  ('amsgrad', optax.amsgrad, {'b2': 0.9}),
  ('amsgrad', optax.amsgrad, {'b2': 0.9, 'bias_correction_mu': False}),
  ('amsgrad', optax.amsgrad, {'b2': 0.9, 'bias_correction_nu': False}),
  ('amsgrad', optax.amsgrad, {'b2': 0.9, 'bias_correction_mu': False, 'bias_correction_nu': False}),
  ('rmsprop', optax.rmsprop, {'eps': 1e-3, 'eps_in_sqrt': False, 'initial_scale': 1.0}),
  ('rmsprop', optax.rmsprop, {'eps': 1e-3, 'centered': True, 'momentum': 0.9}),
  ('rmsprop', optax.rmsprop, {'eps': 1e-3, 'centered': True, 'bias_correction': True, 'initial_scale': 1.0}),
  ('rmsprop', optax.rmsprop, {'eps': 1e-3, 'bias_correction': True, 'momentum': 0.9, 'nesterov': True}),
  ('sgd', optax.sgd, {}),
  ('sgd', optax.sgd, {'momentum': 0.9, 'nesterov': True}),
  ('adagrad', optax.adagrad, {'initial_accumulator_value': 0.0, 'eps': 1e-3}),
]


@pytest.mark.parametrize(('name', 'theirs', 'options'), SAME, ids=[label((name, o)) for name, _, o in SAME])
def test_optax(name, theirs, options):
  """We are as near to optax as optax is to the textbook; in float64 that is near."""
  rate = () if name == 'scale_by_belief' else (RATE,)
  ours = getattr(bo, name)(*rate, **options)
  theirs = theirs(*rate, **{k: v for k, v in options.items() if k not in ('rectify', 'degenerate_to_sgd')})
  for dtype, bound in (np.float32, FLOAT32), (np.float64, FLOAT64):
    grads, params = columns(dtype, steps=50)
    expected = reference(name, grads, params, *(rate or [-1.0]), **options)  # scale_by_belief does not change the sign
    with precision(dtype):
      (our, _), (their, _) = take_steps([ours, theirs], grads, params)
    size = np.abs(expected).max(-1, keepdims=True)
    their_error = np.abs(np.asarray(their) - expected)
    assert (np.abs(np.asarray(our) - np.asarray(their)) <= their_error + bound * size).all()
    if dtype == np.float64:
      assert (their_error <= 1e-9 * size).all()  # so the reference, and we, compute what optax means


# Where numbers end.

# Gradients a_t p + b_t of one parameter each: their size may depend on the parameter or not.
ten = np.arange(10)
STREAMS = {  # name: (a_t, b_t, first p)
  'zero': (0.0, 0.0, 1.0),
  'zero that depends on p': (1.0, 0.0, 0.0),
  'sparse': (0.0, (ten == 3) - 2.0 * (ten == 7), 1.0),
  'sparse that depends on p': (ten % 4 == 2, 0.0, 1.0),
  'constant': (0.0, 1.0, 1.0),
  'quadratic': (1.0, 0.0, 1.0),
  'tiny': (0.0, 1e-30, 1.0),
  'huge once': (0.0, 1.0 + 1e20 * (ten == 6), 1.0),
  'huge': (0.0, 1e20, 1.0),
  'huge and changing': (0.0, 1e20 * (-1.0) ** ten, 1.0),
}
SLOPES, OFFSETS = (
  jnp.asarray([np.broadcast_to(stream[i], ten.shape) for stream in STREAMS.values()], jnp.float32) for i in (0, 1)
)
STARTS = jnp.asarray([stream[2] for stream in STREAMS.values()], jnp.float32)
EXTREME_CASES = [
  ('adabelief', {**OFFICIAL}),
  ('adabelief', {'rectify': False, 'amsgrad': True}),
  ('adabelief', {**OFFICIAL, 'nesterov': True, 'residual': 'debiased'}),
  ('adabelief', {'residual': 'previous', 'eps_scaled': True, 'rectify': False}),
  ('adam', {}),
  ('adam', {'bias_correction': False, 'weight_decay': 0.1, 'weight_decay_mode': 'l2'}),
  ('nadam', {'eps_scaled': True}),
  ('amsgrad', {}),
  ('amsgrad', {'max_of': 'raw'}),
  ('radam', {**MEAN, 'degenerate_to_sgd': False, 'nesterov': True, 'eps_scaled': True}),
  ('rmsprop', {'centered': True, 'bias_correction': True}),
  ('rmsprop', {'centered': True, 'eps_in_sqrt': False, 'momentum': 0.9}),
  ('rmsprop', {}),
  ('adagrad', {'initial_accumulator_value': 0.0}),
  ('adagrad', {'eps_in_sqrt': False}),
  ('sgd', {'momentum': 0.9, 'nesterov': True}),
  *((name, {}) for name in ('laprop', 'adamax', 'yogi', 'adam_atan2', 'adan', 'ademamix', 'mars', 'padam')),
  ('adopt', {'clip_power': 4.0}),  # a limit that is not reached: behind it no rate would count
  *((name, {}) for name in ('acprop', 'eadam', 'adamomentum', 'lars')),
]
extreme_cases = pytest.mark.parametrize('case', EXTREME_CASES, ids=label)


def arguments(name):
  return inspect.signature(getattr(bo, name)).parameters


def epsilons(name, zero):
  """The eps and eps_root that an algorithm has: its defaults, or 0."""
  known = {k: p.default for k, p in arguments(name).items() if k in ('eps', 'eps_root')}
  return dict.fromkeys(known, 0.0) if zero else known


def check_finite(tree, what):
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    assert np.isfinite(leaf).all(), f'{what}{jax.tree_util.keystr(path)}: {leaf}'


@extreme_cases
def test_no_operation_ever_gives_nan(case):
  """Not even in a value that a `where` then drops: the operations run one by one."""
  name, options = case
  tx, p = getattr(bo, name)(1e-6, **options, **epsilons(name, zero=True)), STARTS
  with jax.debug_nans(True), jax.disable_jit():
    state = tx.init(p)
    for t in ten:
      updates, state = tx.update(SLOPES[:, t] * p + OFFSETS[:, t], state, p)
      p = p + updates
      check_finite((updates, state), f'{t=}, streams {list(STREAMS)}: ')


@extreme_cases
def test_the_derivative_through_ten_updates_is_finite(case):
  """With the default eps and with none; by p, the learning rate and, in one case of each algorithm, the rates."""
  name, options = case
  known = arguments(name) if case is dict(reversed([(c[0], c) for c in EXTREME_CASES]))[name] else {}
  rates = {k: jnp.float32(known[k].default) for k in ('b1', 'b2', 'decay') if k in known}
  eps = jax.tree.map(lambda *pair: jnp.asarray(pair, jnp.float32), epsilons(name, False), epsilons(name, True))

  def loss(p, learning_rate, rates, eps, slopes, offsets):
    tx = getattr(bo, name)(learning_rate, **rates, **eps, **options)

    def step(carry, stream):
      p, state = carry
      slope, offset = stream
      updates, state = tx.update(slope * p + offset, state, p)
      return (p + updates, state), None

    (p, _), _ = jax.lax.scan(step, (p, tx.init(p)), (slopes, offsets))
    return p**2

  derivatives = jax.vmap(jax.grad(loss, argnums=(0, 1, 2)), in_axes=(0, None, None, None, 0, 0))
  if eps:
    derivatives = jax.vmap(derivatives, in_axes=(None, None, None, 0, None, None))
  # The rate is small because a huge gradient is squared three times: in sgd's update, in its derivative, in the loss.
  # A variance that begins at 0, under an eps of 1e-8, makes a derivative of 1e44 of a gradient of 1e20: out of range.
  offsets = jnp.clip(OFFSETS, -1e10, 1e10) if options.get('bias_correction') else OFFSETS
  with jax.debug_nans(True):
    wrt_p, wrt_rate, wrt_rates = jax.jit(derivatives)(STARTS, jnp.float32(1e-12), rates, eps, SLOPES, offsets)
  check_finite((wrt_p, wrt_rate, wrt_rates), f'streams {list(STREAMS)}: ')
  # And they are there: a larger step brings p nearer to 0, an average of unequal gradients depends on its rate.
  assert (wrt_rate[..., list(STREAMS).index('quadratic')] < 0).all()
  assert all((d[..., list(STREAMS).index('sparse')] != 0).any() for d in wrt_rates.values())


# The largest second moment, and the sum, never forget by definition; they only have to stay finite.
@pytest.mark.parametrize(
  ('case', 'forgets'),
  [
    (('adabelief', {**OFFICIAL, 'b2': 0.9}), True),
    (('adabelief', {**OFFICIAL, 'b2': 0.9, 'residual': 'previous'}), True),
    (('adam', {'b2': 0.9}), True),
    (('adam', {'b2': 0.6}), True),
    (('radam', {**MEAN, 'b2': 0.9}), True),
    (('rmsprop', {}), True),
    (('rmsprop', {'centered': True, 'bias_correction': True}), True),
    (('amsgrad', {}), False),
    (('adagrad', {}), False),
  ],
  ids=lambda x: label(x) if isinstance(x, tuple) else '',
)
def test_one_huge_gradient_freezes_nothing(case, forgets):
  name, options = case
  grads = np.random.default_rng(0).standard_normal((2000, 2)).astype(np.float32)
  grads[:, 1] = grads[:, 0]
  grads[10, 1] = 1e20
  ((updates, state),) = take_steps([make(name, **options)], grads, grads[0])
  updates = np.asarray(updates)
  check_finite((updates, state), '')
  assert (updates[11:] != 0).all()
  if forgets:
    np.testing.assert_allclose(updates[-100:, 1], updates[-100:, 0], rtol=1e-5)


# dtypes.

DTYPE_CASES = [
  ('adabelief', {**OFFICIAL, 'weight_decay': 0.1}),
  ('adabelief', {'rectify': False, 'nesterov': True}),
  ('adam', {'weight_decay': 0.1, 'weight_decay_mode': 'l2'}),
  ('amsgrad', {'max_of': 'raw'}),
  ('rmsprop', {'centered': True, 'momentum': 0.9}),
  ('adagrad', {}),
  ('sgd', {'momentum': 0.9}),
]
dtype_cases = pytest.mark.parametrize('case', DTYPE_CASES, ids=label)


def slot_dtypes(state):
  return {name: slot.dtype for name, slot in state.slots.items()}


@dtype_cases
@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_16_bits_are_computed_in_float32(case, dtype):
  """Bit for bit, zeros included: only what arrives and what leaves is rounded."""
  grads, params = columns(np.float32, steps=50)
  grads = grads * (np.arange(SIZE) > 3)
  grads, params = jnp.asarray(grads, dtype), jnp.asarray(params, dtype)
  tx = make(case[0], **case[1])
  ((low, state),) = take_steps([tx], grads, params)
  ((full, wide_state),) = take_steps([tx], grads.astype(jnp.float32), params.astype(jnp.float32))
  assert low.dtype == dtype
  assert set(slot_dtypes(state).values()) == {jnp.dtype(jnp.float32)}
  check_finite((low.astype(jnp.float32), state), '')
  np.testing.assert_array_equal(np.asarray(low), np.asarray(full.astype(dtype)))
  jax.tree.map(np.testing.assert_array_equal, state, wide_state)


@dtype_cases
@pytest.mark.parametrize(('dtype', 'bound'), [(np.complex64, FLOAT32), (np.complex128, FLOAT64)])
def test_complex_parameters(case, dtype, bound):
  """The second moment is that of the magnitude, so it is real."""
  real, params = columns(np.float64)
  grads, params = ((x + 0.5j * np.roll(x, 1, -1)).astype(dtype) for x in (real, params))
  with precision(np.finfo(dtype).dtype):
    ((updates, state),) = take_steps([make(case[0], **case[1])], grads, params)
  assert updates.dtype == dtype
  expected_dtypes = {name: np.dtype(dtype) for name in ('mu', 'momentum')}
  for name, slot in slot_dtypes(state).items():
    assert slot == expected_dtypes.get(name, np.finfo(dtype).dtype), name
  assert relative_error(updates, reference(case[0], grads, params, RATE, **case[1])).max() <= bound


# Properties.

quick = hypothesis.settings(max_examples=20, deadline=None, derandomize=True)
SCALE_FREE = [
  ('adam', {'eps': 0.0}),
  ('amsgrad', {'eps': 0.0}),
  ('adabelief', {'eps': 0.0, 'eps_root': 0.0, 'rectify': False}),
  ('adabelief', {**OFFICIAL, 'eps': 0.0, 'eps_root': 0.0, 'degenerate_to_sgd': False}),
  ('rmsprop', {'eps': 0.0, 'centered': True}),
]


@quick
@hypothesis.given(exponent=st.integers(-20, 20), seed=st.integers(0, 2**32 - 1), sign=st.sampled_from([-1, 1]))
def test_without_eps_the_scale_of_the_gradient_does_not_count(exponent, seed, sign):
  """Bit for bit, because the scale is a power of 2."""
  grads = np.random.default_rng(seed).standard_normal((20, 8)).astype(np.float32)
  txs = [make(name, **options) for name, options in SCALE_FREE]
  for (expected, _), (scaled, _) in zip(
    take_steps(txs, grads, grads[0]), take_steps(txs, sign * 2.0**exponent * grads, grads[0]), strict=True
  ):
    np.testing.assert_array_equal(sign * np.asarray(scaled), np.asarray(expected))


finite = st.floats(-(2.0**122), 2.0**122, width=32)


@quick
@hypothesis.given(rows=st.lists(st.tuples(*4 * [finite]), min_size=8, max_size=8))
def test_finite_gradients_give_finite_updates(rows):
  txs = [make(name, **options) for name, options in (*SCALE_FREE, *DEFAULTS)]
  grads = np.array(rows, np.float32)
  check_finite(take_steps(txs, grads, np.ones_like(grads[0])), f'{grads}: ')


# Two tutorials.


def test_the_corrected_moments_are_not_the_ones_that_are_carried():
  """A tutorial stores m <- m / (1 - b1^t) and v <- v / (1 - b2^t), so that the steps collapse."""
  grads, params = columns(np.float64, steps=100)
  b1, b2, m, v, wrong = 0.9, 0.999, 0, 0, []
  for t, g in enumerate(grads.astype(np.longdouble), 1):
    m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
    m, v = m / (1 - b1**t), v / (1 - b2**t)
    wrong.append(-RATE * m / (np.sqrt(v) + 1e-8))
  assert np.abs(wrong[-1]).max() < 1e-30
  with x64():
    ((updates, _),) = take_steps([bo.adam(RATE)], grads, params)
  assert relative_error(updates, reference('adam', grads, params, RATE)).max() <= FLOAT64
  assert relative_error(wrong[1:], updates[1:]).min() > 1e-2


def test_the_mean_moves_towards_the_gradient():
  """A tutorial writes m <- (1-b1)(m - g) where m <- m + (1-b1)(g - m) is meant."""
  grads, params = columns(np.float64, steps=50)
  b1, b2, m, v, wrong = 0.9, 0.999, 0, 0, []
  for t, g in enumerate(grads, 1):
    m, v = (1 - b1) * (m - g), b2 * v + (1 - b2) * g**2
    wrong.append(-RATE * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + 1e-8))
  with x64():
    ((updates, _),) = take_steps([bo.adam(RATE)], grads, params)
  assert relative_error(updates, reference('adam', grads, params, RATE)).max() <= FLOAT64
  assert relative_error(wrong, updates).min() > 1e-2
