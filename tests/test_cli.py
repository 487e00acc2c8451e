"""The command line: what it answers, what it refuses, and that the doctor notices what is wrong."""

import builtins
import importlib.util
import inspect
import itertools
import json
import pathlib
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from preset_functions import PRESETS
from reference import reference

import belief_optax as bo
from belief_optax import cli, diagnostics, sharding
from belief_optax.cli import compare, doctor, float64, numbers, signature
from belief_optax.execution import ir
from belief_optax.stores.base import STORES

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def call(capsys):
  """Calls a command: its exit code, and what it says on both streams."""

  def call(*argv):
    code = cli.main(list(argv))
    said = capsys.readouterr()
    return code, said.out, said.err

  return call


def answered(call, *argv, code=0):
  found, out, err = call(*argv, '--json')
  assert (found, err) == (code, '')
  return json.loads(out)


def test_it_is_a_module_and_a_script():
  done = subprocess.run(
    [sys.executable, '-m', 'belief_optax', 'plan', '--params', '1M', '--json'],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert (done.returncode, done.stderr) == (0, '')
  assert json.loads(done.stdout)['bytes_per_device']['state'] == 8e6 + 4
  assert 'belief-optax = "belief_optax.cli:main"' in (ROOT / 'pyproject.toml').read_text()


@pytest.mark.parametrize('argv', [(), ('plan',), ('doctor',), ('describe',), ('describe', 'adabelief')])
def test_help_names_every_option(call, argv):
  code, out, err = call(*argv, '--help')
  assert (code, err) == (0, '')
  expected = {
    (): ['describe', 'plan', 'doctor', '--version', 'Exit codes'],
    ('plan',): ['--params', '--store', '--mesh', '--zero1', '--fsdp', '--dtype', '--memory', '--json'],
    ('doctor',): ['--seconds', '--json'],
    ('describe',): list(signature.OPTIMIZERS),
    ('describe', 'adabelief'): ['--learning-rate', '--b1', '--rectify', '--weight-decay-mode', '--store', '--format'],
  }[argv]
  assert [one for one in expected if one not in out] == []


def test_version(call):
  assert call('--version')[:2] == (0, f'belief_optax {bo.__version__}\n')


@pytest.mark.parametrize(
  ('argv', 'sentence'),
  [
    ((), 'the following arguments are required: COMMAND'),
    (('paint',), "invalid choice: 'paint'"),
    (('plan',), 'the following arguments are required: --params'),
    (('plan', '--params', 'many'), "must be a number of parameters such as 8e9, 8B or 350M, got 'many'"),
    (('plan', '--params', '0'), "got '0'"),
    (('plan', '--params', '1.2.3'), "got '1.2.3'"),
    (('plan', '--params', '8B', '--mesh', '0x8'), "data x model as in 64x8, got '0x8'"),
    (('plan', '--params', '8B', '--memory', '80XB'), "such as 80e9, 80GB or 80GiB, got '80XB'"),
    (('plan', '--params', '8B', '--zero1', '--fsdp'), 'argument --fsdp: not allowed with argument --zero1'),
    (('plan', '--params', '8B', '--store', 'int2'), "invalid choice: 'int2'"),
    (('plan', '--params', '8B', '--round-updates', 'split'), 'add --dtype bfloat16'),
    (('doctor', '--seconds', 'x'), "must be a number of seconds from 0 to 3600, got 'x'"),
    (('describe', 'adabelieve'), "invalid choice: 'adabelieve'"),
    (('describe', 'adabelief', '--b1', '1.5'), 'error: b1 must be a number in [0, 1), got 1.5.'),
    (('describe', 'adabelief', '--b1', 'x'), "argument --b1: must be a number, got 'x'"),
    (('describe', 'adabelief', '--rectify', '--b2', '0.5'), 'error: '),
    (('describe', 'adabelief', '--store', 'int2'), "error: store must be one of 'float32'"),
    (('describe', 'adabelief', '--weight-decay-mode', 'l1'), "invalid choice: 'l1'"),
  ],
)
def test_misuse_is_a_sentence_and_exit_code_2(call, argv, sentence):
  code, out, err = call(*argv)
  assert (code, out) == (2, '')
  assert sentence in err
  assert 'Traceback' not in err


def test_without_rich_tables_are_a_sentence_and_json_works(call, monkeypatch):
  for name in [name for name in sys.modules if name.split('.')[0] == 'rich']:
    monkeypatch.delitem(sys.modules, name)
  found = builtins.__import__

  def without_rich(name, *args, **kwargs):
    if name.split('.')[0] == 'rich':
      raise ImportError(name)
    return found(name, *args, **kwargs)

  monkeypatch.setattr(builtins, '__import__', without_rich)
  code, _, err = call('plan', '--params', '8B')
  assert (code, err) == (2, 'belief-optax: error: tables need rich: pip install "belief_optax[cli]", or use --json.\n')
  assert answered(call, 'plan', '--params', '1B')['fits']


# Options from signatures.


def test_every_optimizer_and_preset_has_a_name_here():
  expected = {*bo.optimizers.__all__, *(f'presets.{name}' for name in PRESETS)}
  assert set(signature.OPTIMIZERS) == expected


@pytest.mark.parametrize('name', signature.OPTIMIZERS)
def test_options_are_the_arguments(name):
  function = signature.OPTIMIZERS[name]
  parameters = inspect.signature(function).parameters
  found = {option.name: option for option in signature.options(function)}
  assert set(found) <= set(parameters)
  left_out = set(parameters) - set(found)
  # What is no option cannot be written as text: a mask, or what a preset ignores.
  assert not {p for p in left_out if isinstance(parameters[p].default, bool | int | float | str | tuple)}, left_out
  assert all(option.how['help'].split(' (default')[0] for option in found.values())


@pytest.mark.parametrize(
  ('argv', 'expected'),
  [
    (('adabelief', '--weight-decay', '0.01'), lambda: bo.adabelief(1e-3, weight_decay=0.01)),
    (('adabelief', '--rectify', '--no-amsgrad', '--residual', 'previous'),
     lambda: bo.adabelief(1e-3, rectify=True, residual='previous')),
    (('adam', '--mu-dtype', 'bfloat16'), lambda: bo.adam(1e-3, mu_dtype='bfloat16')),
    (('rmsprop', '--momentum', 'none'), lambda: bo.rmsprop(1e-3, momentum=None)),
    (('rmsprop', '--momentum', '0.5'), lambda: bo.rmsprop(1e-3, momentum=0.5)),
    (('sgd', '--learning-rate', '0.1', '--store', 'int8'), lambda: bo.sgd(0.1, store='int8')),
    (('adam', '--store', 'mu=bfloat16,nu=float32'),
     lambda: bo.adam(1e-3, store={'mu': 'bfloat16', 'nu': 'float32'})),
    (('presets.torch.adamw', '--betas', '0.8', '0.99'), lambda: bo.presets.torch.adamw(betas=(0.8, 0.99))),
  ],
)  # fmt: skip
def test_an_optimizer_is_made_of_its_options(argv, expected):
  arguments = cli.parser().parse_args(['describe', *argv])
  given = {key.removeprefix('of_'): x for key, x in vars(arguments).items() if key.startswith('of_')}
  tx = signature.built(argv[0], given)
  assert tx == expected()
  assert eval(signature.as_python(argv[0], given), {'bo': bo, 'presets': bo.presets}) == tx


# Describe.


def test_a_description_in_each_format(call):
  argv = ['describe', 'adabelief', '--weight-decay', '0.01']
  tx = bo.adabelief(1e-3, weight_decay=0.01)
  of = diagnostics.describe(tx)
  _, out, _ = call(*argv)
  assert out == f'bo.adabelief(learning_rate=0.001, weight_decay=0.01)\n{of}\n'
  assert call(*argv, '--format', 'markdown')[1].rstrip() == of.markdown().rstrip()
  assert call(*argv, '--format', 'latex')[1].rstrip() == of.latex().rstrip()
  data = answered(call, *argv)
  assert data == {'call': 'bo.adabelief(learning_rate=0.001, weight_decay=0.01)', **signature.as_json(of.as_dict())}


@pytest.mark.parametrize(
  'name', [pytest.param(n, marks=() if n in ('sgd', 'presets.timm.rmsprop_tf') else pytest.mark.full)
           for n in signature.OPTIMIZERS if n != 'presets.papers.adabelief']
)  # fmt: skip
def test_each_can_be_described(call, name):
  code, out, err = call('describe', name)
  assert (code, err) == (0, '')
  assert signature.built(name, {}).lines[0].name in out


def test_what_python_requires_is_required_here(call):
  code, _, err = call('describe', 'presets.papers.adabelief')
  assert code == 2
  assert 'the following arguments are required: --task' in err


# Numbers.


@pytest.mark.parametrize(
  ('parse', 'text', 'value'),
  [
    (numbers.count, '8e9', 8e9), (numbers.count, '8B', 8e9), (numbers.count, '1.5m', 1.5e6),
    (numbers.count, '1,000', 1000), (numbers.size, '80GB', 80e9), (numbers.size, '80GiB', 80 * 2**30),
    (numbers.size, '1e3', 1000), (numbers.size, '2 TiB', 2 * 2**40), (numbers.mesh, '8x64', (8, 64)),
    (numbers.mesh, '8', (8, 1)),
  ],
)  # fmt: skip
def test_numbers_are_read(parse, text, value):
  assert parse(text) == value


def test_numbers_are_written():
  assert [numbers.short(x) for x in (8.03e9, 12, 1234)] == ['8.03B', '12', '1.23K']
  assert [numbers.gib(x * 2**30) for x in (0, 1e-4, 0.0582, 29.91, 262.8)] == ['0', '< 0.001', '0.0582', '29.9', '263']


# Plan.


def test_the_plan_is_that_of_the_page_on_scaling(call):
  """All 144 rows of docs/scaling.md: what they have on paper."""
  kept = json.loads((ROOT / 'benchmarks' / 'results' / 'scaling.json').read_text())
  flags = {'plain': (), 'zero1-jit': ('--zero1',), 'zero1-shard_map': ('--zero1',), 'fsdp': ('--fsdp',)}
  rows = [(tree, *key.split('/'), row) for tree in ('1B', '8B', '70B') for key, row in kept[tree]['rows'].items()]
  assert len(rows) == 144
  for i, (tree, n, layout, store, row) in enumerate(rows):
    kind, parameters = flags[layout][0][2:] if flags[layout] else 'plain', kept[tree]['parameters']
    of = sharding.budget(bo.adabelief(1e-3, store=store), parameters, int(n), kind)
    assert of.state == row['paper']['state'], (tree, n, layout, store)
    small = 0.002 if n == '8' else 0.05  # arrays that are too small to be split
    assert row['params'] * (1 - small) <= of.params <= row['params']
    if i % 20 == 0:
      argv = ['--params', str(parameters), '--mesh', n, '--store', store, '--memory', '1e15', *flags[layout]]
      assert answered(call, 'plan', *argv)['bytes_per_device']['state'] == of.state


def test_the_state_is_that_of_init():
  for store, dtype in itertools.product(STORES, ('float32', 'bfloat16')):
    tx, params = bo.adabelief(1e-3, store=store), jnp.ones((64, 128), dtype)
    of = sharding.budget(tx, params.size, dtype=dtype)
    assert (of.params, of.state) == (params.nbytes, bo.state_bytes(tx.init(params))), store


def test_a_mesh_of_two_axes_splits_by_both(call):
  argv = ['--params', '8e9', '--store', 'packed16', '--mesh', '8x64']
  plain, zero1 = (answered(call, 'plan', *argv, *more)['bytes_per_device'] for more in ((), ('--zero1',)))
  assert plain['params'] == zero1['params'] == 4 * 8e9 / 64
  assert (plain['state'], zero1['state']) == (4 * 8e9 / 64 + 4, 4 * 8e9 / 512 + 4)


def test_what_does_not_fit_is_exit_code_1(call):
  of = answered(call, 'plan', '--params', '8B', code=1)
  assert not of['fits']
  assert of['fewest_devices'] is None
  of = answered(call, 'plan', '--params', '8B', '--fsdp', code=1)
  assert of['fewest_devices'] == 2
  assert answered(call, 'plan', '--params', '8B', '--fsdp', '--mesh', '2')['fits']
  assert answered(call, 'plan', '--params', str(of['largest_model']), '--fsdp')['fits']
  more = str(int(of['largest_model'] * 1.001))
  assert not answered(call, 'plan', '--params', more, '--fsdp', code=1)['fits']


def test_sixteen_bits(call):
  argv = ['--params', '1e9', '--dtype', 'bfloat16', '--round-updates', 'split', '--store', 'int8']
  of = answered(call, 'plan', *argv)['bytes_per_device']
  assert (of['params'], of['grads'], of['state']) == (2e9, 2e9, 4e9 + 4)  # 2 bytes of codes, 2 of the lower half


def test_the_plan_is_a_table(call):
  code, out, _ = call('plan', '--params', '8e9', '--mesh', '8', '--zero1')
  assert code == 0
  assert [line.split() for line in out.splitlines() if line.split()[:1] == ['state']] == [['state', '7.45', '10.0%']]
  assert all(store in out for store in STORES)
  assert 'Fits: 90% of 80 GB.' in out


# Compare: what is measured, and how, `test_comparison` says.


@pytest.fixture
def comparison(monkeypatch):
  """A comparison that only notes what it is asked."""
  asked = []

  class Report:
    as_dict = staticmethod(lambda: {'optimizers': ['sgd']})
    markdown = staticmethod(lambda: '# Comparison')
    table = staticmethod(lambda: 'a table')

  def main(*args, **options):
    asked.append((*args, options))
    if args[1] == ['chess']:
      raise ValueError("tasks must be of digits, got 'chess'.")
    if args[3] == '/proc/no':
      raise OSError('cannot write into /proc/no')
    return Report()

  monkeypatch.setitem(sys.modules, 'belief_optax.comparison', types.SimpleNamespace(main=main, __spec__=object()))
  monkeypatch.setattr(cli, 'COMMANDS', (compare,))
  cli.parser.cache_clear()
  yield asked
  cli.parser.cache_clear()


def test_the_comparison_gets_what_is_asked(call, comparison):
  assert answered(call, 'compare', 'sgd', 'optax:adam', '--on', 'digits', 'letters') == {'optimizers': ['sgd']}
  assert call('compare', 'sgd', '--on', 'digits', '--full', '--out', 'x', '--workers', '2', '--resume')[1] == (
    'a table\n'
  )
  assert call('compare', 'sgd', '--on', 'digits', '--format', 'markdown')[1] == '# Comparison\n'
  one = {'workers': 1, 'resume': False}
  assert comparison == [
    (['sgd', 'optax:adam'], ['digits', 'letters'], True, None, False, one),
    (['sgd'], ['digits'], False, 'x', True, {'workers': 2, 'resume': True}),
    (['sgd'], ['digits'], True, None, True, one),
  ]


@pytest.mark.usefixtures('comparison')
@pytest.mark.parametrize(
  ('argv', 'sentence'),
  [
    (('sgd', '--on', 'chess'), "error: tasks must be of digits, got 'chess'."),
    (('sgd', '--on', 'digits', '--out', '/proc/no'), 'error: cannot write into /proc/no'),
    (('sgd',), 'the following arguments are required: --on'),
  ],
)
def test_a_comparison_that_cannot_be_is_a_sentence(call, argv, sentence):
  code, out, err = call('compare', *argv)
  assert (code, out) == (2, '')
  assert sentence in err


def test_compare_is_there_where_the_comparison_is():
  assert (compare in cli.COMMANDS) == (importlib.util.find_spec('belief_optax.comparison') is not None)


# Doctor.


@pytest.fixture
def few(monkeypatch):
  """Two optimizers are examined, so that a test takes a second."""
  rows = {'adam': bo.adam(1e-3), 'adabelief': bo.adabelief(1e-3)}
  monkeypatch.setattr(doctor, 'examined', lambda: rows)
  return rows


def test_a_sound_machine_passes(call, few):
  of = answered(call, 'doctor', '--seconds', '300')
  assert of['problems'] == []
  assert of['donation'] == {'works': True, 'why_not': ''}
  assert of['versions']['jax'] == jax.__version__
  rows = {(row['optimizer'], row['path']): row for row in of['self_check']}
  assert set(rows) == set(itertools.product(few, ('xla', 'native')))
  checked = [row for row in rows.values() if row['verdict'] != 'not checked']
  assert {row['verdict'] for row in checked} == {'right'}
  assert {row['optimizer'] for row in checked if row['path'] == 'xla'} == set(few)
  assert all(0 < row['ulp'] < 16 for row in checked)
  assert of['execution']['path'] != 'native' or len(checked) == 4


@pytest.mark.parametrize(('off', 'found'), [(4e-6, True), (1e-6, False)])
def test_a_step_that_is_compiled_wrongly_is_found(call, few, monkeypatch, off, found):
  """One element of one array of one step, as if the code of a loop's remainder were wrong."""
  compiled = doctor.compiled_updates

  def faulty(tx, path):
    updates = [u.copy() for u in compiled(tx, path)]
    if tx == few['adabelief'] and path == 'xla':
      place = np.argmax(np.abs(updates[3][1]))
      updates[3][1, place] *= 1 + off
    return updates

  monkeypatch.setattr(doctor, 'compiled_updates', faulty)
  code, out, _ = call('doctor', '--seconds', '300')
  assert code == found
  assert ('adabelief by xla is' in out) == ('! wrong' in out) == found
  assert 'adam by xla is' not in out


def test_a_wrong_machine_loop_is_found(call, monkeypatch):
  rows = {'adam': bo.adam(1e-3, b2=0.9985), 'adabelief': bo.adabelief(1e-3, b2=0.9985)}  # loops that nobody has made
  if doctor._why_not_native(bo.adam(1e-3)):
    pytest.skip('no machine loops here')
  exact = ir._SCALAR['sub']
  monkeypatch.setattr(doctor, 'examined', lambda: rows)
  monkeypatch.setitem(ir._SCALAR, 'sub', lambda writer, dtype, a, b: exact(writer, dtype, b, a))
  of = answered(call, 'doctor', '--seconds', '300', code=1)
  verdicts = {(row['optimizer'], row['path']): row['verdict'] for row in of['self_check']}
  assert verdicts['adam', 'xla'] == verdicts['adabelief', 'xla'] == 'right'
  assert verdicts['adam', 'native'] == 'wrong'
  assert 'native' in of['problems'][0]


def test_one_element_that_is_not_finite_is_wrong():
  exact = np.ones((3, 5))
  off = exact.copy()
  off[1, 2] = np.nan
  assert doctor.error(off, exact) == float('inf')
  assert doctor.error(off, off) == 0
  off[1, 2] = 1 + 2**-20
  assert doctor.error(off, exact) == 2**3


@pytest.mark.usefixtures('few')
def test_what_is_not_donated_is_a_problem(call, monkeypatch):
  jit = jax.jit
  monkeypatch.setattr(
    jax, 'jit', lambda f, **options: jit(f, **{k: v for k, v in options.items() if 'donate' not in k})
  )
  of = answered(call, 'doctor', '--seconds', '0', code=1)
  assert of['donation']['why_not'] == '3 of 3 donated arrays were not taken'
  assert of['problems'] == ['donation: 3 of 3 donated arrays were not taken']


@pytest.mark.usefixtures('few')
def test_no_row_begins_when_the_time_is_over(call):
  rows = answered(call, 'doctor', '--seconds', '0')['self_check']
  assert {row['verdict'] for row in rows} == {'not checked'}
  assert all('--seconds' in row['why'] for row in rows)


COVERING = ('adabelief', 'adabelief, rectified', 'nadam', 'rmsprop')
each_examined = [pytest.param(name, marks=() if name in COVERING else pytest.mark.full) for name in doctor.examined()]


@pytest.mark.parametrize('name', each_examined)
def test_the_float64_steps_are_those_of_the_textbook(name):
  """The judge is right too: within 1e-6, as the constants of a step are those of float32."""
  name, _, rectified = name.partition(', ')
  grads, params = doctor.columns()
  options = {'rectify': True, 'weight_decay': 0.01} if rectified else {}
  expected = reference(name, grads, params, 1e-3, **options)
  if name == 'scale_by_belief':
    expected = -1000 * expected
  found = np.stack(doctor.exact_updates(doctor.examined()[f'{name}, {rectified}' if rectified else name]))
  scale = np.abs(expected).max(-1, keepdims=True)
  assert float((np.abs(found - expected) / np.where(scale > 0, scale, 1)).max()) < 1e-6


def test_an_unknown_equation_is_not_checked_and_says_so(call, monkeypatch):
  class Odd(bo.Line):
    """u <- digamma(u)."""

    def step(self, x, k):
      return x.redirect(jax.scipy.special.digamma(x.u))

  monkeypatch.setattr(doctor, 'examined', lambda: {'odd': bo.piece(Odd)()})
  (row, _) = answered(call, 'doctor', '--seconds', '300')['self_check']
  assert (row['verdict'], row['why']) == ('not checked', 'digamma has no counterpart in NumPy here')


def test_equations_in_numpy():
  def f(x, n):
    y = jnp.where(x > 0, jnp.sqrt(jnp.abs(x)), -x) ** 3 + jnp.clip(x, -1, 1).T.reshape(x.shape)
    return y / (1 + jnp.sum(y**2)), -n // 2

  x, n = jnp.linspace(-2, 2, 12).reshape(3, 4), jnp.asarray(3)
  y, m = float64.trace(f, x, n)(x, n)
  expected, after = f(x, n)
  np.testing.assert_allclose(y, expected, 1e-5)
  assert (y.dtype, m, m.dtype) == (np.float64, after, np.int32)
