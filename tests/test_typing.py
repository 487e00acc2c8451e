"""What a type checker and a reader of docstrings see of an argument: its type and its words are said in one place."""

import inspect
import json
import pathlib
import runpy
import subprocess
import sys
import types
from typing import get_args

import pytest

import belief_optax as bo
from belief_optax import optimizers, pieces, stores
from belief_optax.core.vocabulary import Vocabulary
from belief_optax.pieces.rounding import METHODS, RoundUpdates

ROOT = pathlib.Path(__file__).parents[1]
RIGHT, WRONG = (ROOT / 'tests' / 'typing' / f'{name}.py' for name in ('right', 'wrong'))
TOOL = ROOT / 'tools' / 'docstrings.py'
TYPES = inspect.get_annotations(Vocabulary)

docstrings = types.SimpleNamespace(**runpy.run_path(str(TOOL)))


def test_right_calls_have_no_type_errors_and_wrong_ones_each_have_one():
  pytest.importorskip('pyright')
  command = [sys.executable, '-m', 'pyright', '--pythonpath', sys.executable, '--outputjson', str(RIGHT), str(WRONG)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
  found = json.loads(done.stdout)['generalDiagnostics']
  errors = {(pathlib.Path(one['file']).stem, one['range']['start']['line'] + 1): one['message'] for one in found}
  marked = [i for i, line in enumerate(WRONG.read_text('utf-8').splitlines(), 1) if line.endswith('  # error')]
  assert len(marked) > 30
  assert {place: text for place, text in errors.items() if place not in {('wrong', i) for i in marked}} == {}
  assert [i for i in marked if ('wrong', i) not in errors] == []


@pytest.mark.parametrize('name', optimizers.__all__)
def test_algorithms_have_the_types_of_the_vocabulary(name):
  parameters = inspect.signature(getattr(bo, name)).parameters
  found = {argument: p.annotation for argument, p in parameters.items()}
  assert not any(isinstance(kind, str) for kind in found.values())  # a schedule is known by its annotation
  assert {n: kind for n, kind in found.items() if n in TYPES} == {n: kind for n, kind in TYPES.items() if n in found}


@pytest.mark.parametrize('name', [*optimizers.__all__, *pieces.__all__])
def test_options_are_those_of_the_type(name):
  """Whatever says `Literal` takes exactly its values; `test_core` has the errors of others."""
  function = getattr(bo, name)
  required = {'learning_rate': 0.1, 'momentum': 0.9, 'weight_decay': 0.1, 'factor': 2.0}
  parameters = inspect.signature(function).parameters
  given = {argument: value for argument, value in required.items() if argument in parameters}
  for argument, parameter in parameters.items():
    options = [value for value in get_args(parameter.annotation) if isinstance(value, str)]
    for option in options:
      assert isinstance(function(**given, **{argument: option}), bo.Recipe)
    if options:
      assert parameter.default in options
      assert all(f"`'{option}'`" in inspect.getdoc(function) for option in options)
      with pytest.raises(ValueError, match=f'^{argument} must be one of .*{options[-1]}.*, got .typo'):
        function(**given, **{argument: 'typo'})


def test_names_that_stand_elsewhere_too_are_those_of_the_type():
  assert tuple(METHODS) == get_args(inspect.get_annotations(RoundUpdates)['method'])
  assert set(get_args(get_args(stores.StoreLike)[0])) == set(stores.base.STORES)


# Docstrings.

MODULE = sys.modules['belief_optax.optimizers.adabelief']
SOURCE = inspect.getsource(MODULE)
DOCUMENTED = '''def f(b1, eps):
  """Adds.

  Args:
    b1: what the vocabulary does not say,
      in two lines.
    other: {b1}.
    eps: what this function alone says.

  Returns:
    b1: nothing.
  """{own}
'''


def _words(**words):
  return docstrings.vocabulary() | words


def test_docstrings_say_what_the_vocabulary_says():
  done = subprocess.run([sys.executable, TOOL, '--check'], cwd=ROOT, capture_output=True, text=True, check=False)
  assert (done.returncode, done.stdout, done.stderr) == (0, '', '')


def test_the_vocabulary_explains_each_argument_and_its_options():
  words = docstrings.vocabulary()
  assert list(words) == list(TYPES)
  for name, kind in TYPES.items():
    assert all(f"`'{option}'`" in words[name] for option in get_args(kind) if isinstance(option, str))
    assert ('{range}' in words[name]) == ('allowed' in vars(Vocabulary)[name].metadata)


@pytest.mark.parametrize('name', ['b1', 'store', 'weight_decay_mode', 'residual'])
def test_other_words_are_noticed_and_written(name):
  assert docstrings.rewritten(SOURCE, vars(MODULE), _words()) == SOURCE
  changed = docstrings.rewritten(SOURCE, vars(MODULE), _words(**{name: 'other words ' * 20}))
  assert changed.count(f'    {name}: other words other') == SOURCE.count(f'\n    {name}: ')
  assert docstrings.rewritten(changed, vars(MODULE), _words()) == SOURCE  # nothing else was touched


def test_words_of_its_own_are_kept():
  objects = {'f': lambda b1, eps: (b1, eps)}
  rewritten = docstrings.rewritten(DOCUMENTED.replace('{own}', '  # own words: eps'), objects, _words(b1='rate.'))
  old = '    b1: what the vocabulary does not say,\n      in two lines.\n'
  assert rewritten == DOCUMENTED.replace('{own}', '  # own words: eps').replace(old, '    b1: rate.\n')
  assert 'function alone' not in docstrings.rewritten(DOCUMENTED.replace('{own}', ''), objects, _words())


def test_words_of_its_own_for_what_is_not_there_are_refused():
  with pytest.raises(ValueError, match=r'^f has words of its own for'):
    docstrings.rewritten(DOCUMENTED.replace('{own}', '  # own words: eps, b2'), {'f': None}, _words())


def test_a_piece_says_its_own_range():
  assert 'a number in [0, 1],' in bo.heavy_ball.__doc__
  assert 'a number in [0, 1),' in bo.centered_moment.__doc__
