"""Recipes that are no algorithm of their own: schedule-free, norms that stay, matrices for Muon."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest
from contract_helpers import assert_close, gradients, params, run
from helpers import x64

import belief_optax as bo


def matrices(tree):
  return jax.tree.map(lambda p: p.ndim > 1, tree)


# Schedule-free.

WARMUPS = {'constant': None, 'warmup': 4}


@pytest.mark.parametrize('warmup', WARMUPS.values(), ids=WARMUPS)
def test_schedule_free_is_that_of_optax(warmup):
  """Step for step; optax sums its weights up, and divides by b1 in every step."""
  rising = lambda count: 0.125 * jnp.minimum((count + 1) / (warmup or 1), 1.0)  # exact in float32 too
  base = bo.rmsprop(rising, decay=0.999, bias_correction=True)
  # optax calls the schedule of its weights with 1 at the first step, that of its base optimizer with 0.
  theirs = optax.contrib.schedule_free(base, lambda count: rising(count - 1), b1=0.8)
  ours = bo.compose(base, bo.schedule_free(0.8, warmup))
  with x64():
    start, grads = params(jnp.float64), gradients(12, jnp.float64)
    (_, p, state), (_, q, other) = run(ours, start, grads), run(theirs, start, grads)
    assert_close(p, q, rtol=1e-12, atol=1e-13)
    found, expected = bo.schedule_free_params(state, p, 0.8), optax.contrib.schedule_free_eval_params(other, q)
    assert_close(found, expected, rtol=1e-12, atol=1e-13)
    assert_close(state.slots['z'], other.z, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize('warmup', WARMUPS.values(), ids=WARMUPS)
def test_schedule_free_is_the_paper(warmup):
  """With the weights of its authors' code, gamma_t^2."""
  rate, b1, total = 0.5, 0.9, 0.0
  with x64():
    rising = lambda count: rate * jnp.minimum((count + 1) / (warmup or 1), 1.0)
    tx, p = bo.compose(bo.sgd(rising), bo.schedule_free(b1, warmup)), params(jnp.float64)['w']
    state, x, z = tx.init(p), np.asarray(p), np.asarray(p)
    for t, g in enumerate((g['w'] for g in gradients(12, jnp.float64)), 1):
      updates, state = tx.update(g, state, p)
      p = optax.apply_updates(p, updates)
      gamma = rate * min(t / (warmup or 1), 1.0)
      total += gamma**2
      z = z - gamma * np.asarray(g)
      x = x + gamma**2 / total * (z - x)
      np.testing.assert_allclose(p, b1 * x + (1 - b1) * z, rtol=1e-12)
      np.testing.assert_allclose(bo.schedule_free_params(state, p, b1), x, rtol=1e-12)


def test_schedule_free_keeps_eight_bytes_per_parameter():
  """Adam without its mean, and z. optax keeps the mean too, though its rate is 0."""
  p = {'w': jnp.zeros((64, 32))}
  size = lambda state: sum(x.nbytes for x in jax.tree.leaves(state))
  ours = bo.compose(bo.rmsprop(0.1, decay=0.999, bias_correction=True), bo.schedule_free())
  theirs = optax.contrib.schedule_free(optax.adam(0.1, b1=0.0), 0.1)
  assert size(ours.init(p)) == 8 * 64 * 32 + 4
  assert size(theirs.init(p)) > 12 * 64 * 32


def test_schedule_free_around_any_recipe_and_in_16_bits():
  for base in (bo.adabelief(0.1, b1=0.0), bo.lion(0.01), bo.laprop(0.1, weight_decay=0.1)):
    tx, p = bo.compose(base, bo.schedule_free(warmup_steps=2), store='bfloat16'), params(jnp.bfloat16)
    _, p, state = run(tx, p, gradients(dtype=jnp.bfloat16))
    assert {x.dtype.name for x in jax.tree.leaves(state.slots['z'])} == {'float32'}
    averages = bo.schedule_free_params(state, p)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), averages) == jax.tree.map(lambda x: (x.shape, x.dtype), p)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(averages))


def test_schedule_free_errors():
  for b1 in (0.0, 1.0):
    with pytest.raises(ValueError, match=r'b1 must be a number in \(0, 1\)'):
      bo.schedule_free(b1)
  with pytest.raises(ValueError, match='warmup_steps must be an integer >= 1'):
    bo.schedule_free(warmup_steps=0)
  with pytest.raises(ValueError, match='put schedule_free last'):
    bo.schedule_free_params(bo.adam(0.1).init(params()), params())
  tx = bo.compose(bo.sgd(0.1), bo.schedule_free())
  with pytest.raises(ValueError, match=r'schedule_free\(.*needs the parameters'):
    tx.update(gradients()[0], tx.init(params()))


# Norms.


def adamh(rate=0.1):
  return bo.compose(
    bo.first_moment(0.9),
    bo.second_moment(0.95),
    bo.bias_correct(0.9, 0.95),
    bo.precondition(1e-8),
    bo.trust_ratio(mask=matrices),
    bo.scale_by_learning_rate(rate),
    bo.keep_norm(matrices),
  )


def test_adamh_is_the_paper():
  """theta <- R (theta - a R u / |u|) / |...|, R = |theta_0|; a vector takes the steps of Adam."""
  with x64():
    start, grads, rate = params(jnp.float64), gradients(dtype=jnp.float64), 0.1
    updates, p, _ = run(adamh(rate), start, grads)
    plain, _, _ = run(bo.adam(rate, b2=0.95), start, grads)
    radius, w = np.linalg.norm(start['w']), np.asarray(start['w'])
    direction, _, _ = run(bo.adam(1.0, b2=0.95), start, grads)  # Adam's direction does not read the parameters
    for mine, u, adam in zip(updates, direction, plain, strict=True):
      there = w + rate * radius * np.asarray(u['w']) / np.linalg.norm(u['w'])
      new = radius * there / np.linalg.norm(there)
      np.testing.assert_allclose(mine['w'], new - w, rtol=1e-12, atol=1e-13)
      assert_close(mine['b'], adam['b'], rtol=1e-12)
      w = new
    assert abs(np.linalg.norm(p['w']) / radius - 1) < 1e-14


@pytest.mark.parametrize('piece', [bo.trust_ratio(), bo.keep_norm(), bo.clip_array_norm(1.0)], ids=str)
@pytest.mark.parametrize('size', [0.0, 1e-30, 1e30])
def test_norms_of_extreme_arrays(piece, size):
  """No square overflows, or is flushed to 0; where there is no norm nothing is divided, also in derivatives."""
  p = size * jnp.array([3.0, -4.0])
  for g in (p, jnp.zeros(2), jnp.array([6e29, 8e29])):
    move = lambda g, p=p: piece.update(g, piece.init(p), p)[0]
    slope = jax.grad(lambda g, move=move: jnp.sum(move(g) / 1e15))(g)
    assert jnp.isfinite(move(g)).all()
    assert jnp.isfinite(slope).all()
  if size and piece == bo.trust_ratio():
    assert_close(piece.update(jnp.array([0.0, 8e29]), piece.init(p), p)[0], 5 * size * jnp.array([0.0, 1.0]))


# Muon: the implementation is optax's.


def test_matrices_by_muon_of_optax_and_the_rest_by_ours():
  p = {'dense': {'kernel': jnp.eye(4) + 0.1, 'bias': jnp.zeros(4)}}
  make = functools.partial(bo.adabelief, 1e-2)
  tx = bo.by_path({'*kernel': optax.contrib.muon(0.02)}, make)
  g = jax.tree.map(lambda x: jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape), p)
  updates, state = tx.update(g, tx.init(p), p)
  kernel, bias = p['dense']['kernel'], p['dense']['bias']
  muon = optax.contrib.muon(0.02)
  expected, _ = muon.update(g['dense']['kernel'], muon.init(kernel), kernel)
  assert_close(updates['dense']['kernel'], expected)
  ours, _ = make().update(g['dense']['bias'], make().init(bias), bias)
  assert_close(updates['dense']['bias'], ours)
  assert jax.tree.structure(tx.update(g, state, p)[1]) == jax.tree.structure(state)
