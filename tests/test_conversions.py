"""The two laws of matching.py, measured on the optimizers that they speak about."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import take_steps, x64

import belief_optax as bo
from belief_optax import presets

# The floor: what eps does to the denominator.


def corrected_belief(grads, eps, b2):
  """S / (1 - b2^t) after every step of the official package, in float64."""
  with x64():
    tx = presets.adabelief_pytorch.adabelief(eps=eps, betas=(0.9, b2), rectify=False)
    rows = jnp.asarray(grads)

    @jax.jit
    def run(rows):
      step = lambda state, g: (lambda s: (s, s.slots['nu']))(tx.update(g, state)[1])
      return jax.lax.scan(step, tx.init(rows[0]), rows)[1]

    t = np.arange(1, len(grads) + 1)
    return np.asarray(run(rows)) / -np.expm1(t * np.log(b2))[:, None]


@pytest.mark.parametrize('b2', [0.9, 0.999])
@pytest.mark.parametrize('eps', [1e-8, 1e-16])
def test_the_floor_is_the_same_at_every_step(eps, b2):
  """Nothing but eps is in s where all gradients are zero."""
  found = corrected_belief(np.zeros((300, 1)), eps, b2)
  np.testing.assert_allclose(found, bo.floor_of(eps, b2), rtol=1e-12)


def test_a_constant_gradient_comes_down_to_the_floor():
  """The residual of a constant gradient is b1^t g: s is more than the floor, and that is all it tends to."""
  found = corrected_belief(np.ones((400, 1)), 1e-8, 0.9)[:, 0]
  floor = bo.floor_of(1e-8, 0.9)
  assert found.min() >= floor * (1 - 1e-12)
  assert found[0] > 1e5 * floor
  np.testing.assert_allclose(found[-1], floor, rtol=1e-9)


def test_what_corresponds_to_adams_eps():
  """Where gradients are small beside Adam's eps, AdaBelief with the eps of that floor takes Adam's steps."""
  grads, eps = np.full((20, 1), 1e-12), 1e-4
  adam = bo.adam(1e-3, 0.9, 0.99, eps=eps)
  adabelief = presets.adabelief_pytorch.adabelief(eps=bo.eps_for_floor(eps**2, 0.99), betas=(0.9, 0.99), rectify=False)
  with x64():
    (adams, _), (ours, _) = take_steps([adam, adabelief], jnp.asarray(grads), jnp.zeros(1))
    np.testing.assert_allclose(ours, adams, rtol=2e-6)  # the same eps is also added to the root, 1e-10 beside 1e-4


@pytest.mark.parametrize('b2', [0.0, 0.9, 0.999])
@pytest.mark.parametrize('eps', [0.0, 1e-16, 1e-3])
def test_eps_for_floor_is_the_inverse(eps, b2):
  assert bo.eps_for_floor(bo.floor_of(eps, b2), b2) == pytest.approx(eps, rel=1e-15)


def test_figures_of_the_documentation():
  assert bo.floor_of(1e-8) ** 0.5 == pytest.approx(3.2e-3, rel=0.02)
  assert bo.floor_of(1e-16) ** 0.5 == pytest.approx(3.2e-7, rel=0.02)
  assert bo.eps_for_floor(1e-8**2) == pytest.approx(1e-19)
  assert 1e-3 / bo.matched_learning_rate(1e-3, 0.9) == pytest.approx(1.083, abs=5e-4)
  assert 1e-3 / bo.matched_learning_rate(1e-3, 0.5) == pytest.approx(1.732, abs=5e-4)


# What the functions take.

FUNCTIONS = [
  (bo.floor_of, {'eps': -1e-8, 'b2': 1.0}),
  (bo.eps_for_floor, {'floor': -1.0, 'b2': -0.1}),
  (bo.matched_learning_rate, {'lr': -1e-3, 'b1': 0.0}),
]
CASES = [(f, name, value) for f, arguments in FUNCTIONS for name, value in arguments.items()]
GOOD = {'eps': 1e-8, 'floor': 1e-8, 'lr': 1e-3, 'b1': 0.9, 'b2': 0.99}


def call(function, **arguments):
  """With good values for what is not given."""
  names = dict(FUNCTIONS)[function]
  return function(**{name: GOOD[name] for name in names} | arguments)


@pytest.mark.parametrize(('function', 'name', 'bad'), CASES)
def test_bad_numbers_are_refused_by_name(function, name, bad):
  for value, error in ((bad, ValueError), (np.ones(2), ValueError), ('1', TypeError), (None, TypeError)):
    with pytest.raises(error, match=f'^{name} must be '):
      call(function, **{name: value})
  schedule = optax.constant_schedule(GOOD[name])
  with pytest.raises(TypeError, match=f'^{name} must be a number or a scalar array, got the schedule'):
    call(function, **{name: schedule})


@pytest.mark.parametrize(('function', 'name', 'bad'), CASES)
def test_arrays_are_taken(function, name, bad):
  """Also traced ones: under jit, and differentiated."""
  del bad
  expected = call(function)
  of_array = lambda value: call(function, **{name: value})
  assert of_array(jnp.float32(GOOD[name])) == pytest.approx(expected, rel=1e-4)
  assert jax.jit(of_array)(GOOD[name]) == pytest.approx(expected, rel=1e-4)
  assert jnp.isfinite(jax.grad(of_array)(GOOD[name]))


# The learning rate: how long the steps are on pure noise.

SIZE, STEPS, SETTLED = 4000, 2000, 200


def step_sizes(txs):
  """The root of the mean square of a step of each optimizer, when its averages have settled."""

  def step(carry, key):
    states, total = carry
    g = jax.random.normal(key, (SIZE,))
    updates, states = zip(*[tx.update(g, state) for tx, state in zip(txs, states, strict=True)], strict=True)
    settled = states[0].count > SETTLED
    return (states, [x + jnp.where(settled, jnp.mean(u**2), 0.0) for x, u in zip(total, updates, strict=True)]), None

  @jax.jit
  def run(keys):
    start = tuple(tx.init(jnp.zeros(SIZE)) for tx in txs), [jnp.zeros([])] * len(txs)
    return jax.lax.scan(step, start, keys)[0][1]

  return np.sqrt(np.asarray(run(jax.random.split(jax.random.key(0), STEPS))))


@pytest.mark.parametrize('b1', [0.5, 0.9])
def test_steps_on_pure_noise(b1):
  """AdaBelief's are sqrt((1 + b1) / 2) / b1 times Adam's, and as long as Adam's at the matched learning rate."""
  rate, eps = 1e-3, 1e-30
  adam = bo.adam(rate, b1, eps=eps)
  adabelief = lambda rate: bo.adabelief(rate, b1, eps=eps, eps_root=eps, rectify=False)
  adams, longer, matched = step_sizes((adam, adabelief(rate), adabelief(bo.matched_learning_rate(rate, b1))))
  assert longer / adams == pytest.approx(((1 + b1) / 2) ** 0.5 / b1, rel=5e-3)
  assert matched / adams == pytest.approx(1.0, rel=5e-3)
