"""What an optimizer says of itself: its description, and the numbers that `measure` takes during the steps."""

import json
import math
import re

import jax
import jax.numpy as jnp
import optax
import pytest
from registry import ALGORITHM_ROWS

import belief_optax as bo
from belief_optax import diagnostics, sharding
from belief_optax.diagnostics import mathematics

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
  ],
)
def test_constants_of_others(tx, name, value):
  assert constants(tx)[name] == pytest.approx(value)


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
