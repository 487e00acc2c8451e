"""Every public name is documented: what it takes, what it gives, and an example that runs."""

import doctest
import inspect
import re
from pathlib import Path

import pytest
from preset_functions import PRESETS

import belief_optax as bo
from belief_optax import diagnostics, formulas, guards, interop, presets, sharding, stores


def _public():
  """What users call: of the package, stores, presets with the classes they take, sharding, diagnostics, interop."""
  classes = {'presets.DialectWarning': presets.DialectWarning, 'presets.labml.WeightDecay': presets.labml.WeightDecay}
  callables = lambda module: ((name, x) for name in module.__all__ if callable(x := getattr(module, name)))
  names = {f'bo.{name}': x for name, x in callables(bo)}
  names |= {f'stores.{name}': x for name, x in callables(stores) if inspect.isclass(x) or inspect.isfunction(x)}
  names |= {f'presets.{name}': preset for name, preset in PRESETS.items()} | classes
  names |= {f'guards.{name}': getattr(guards, name) for name in guards.__all__ if name not in bo.__all__}
  names |= {f'sharding.{name}': getattr(sharding, name) for name in sharding.__all__}
  names |= {f'diagnostics.{name}': x for name, x in callables(diagnostics)}
  return names | {f'interop.{name}': getattr(interop, name) for name in interop.__all__}


def _formulas():
  own = inspect.getmembers(formulas, lambda f: callable(f) and getattr(f, '__module__', '') == formulas.__name__)
  return {f'formulas.{name}': f for name, f in own if not name.startswith('_')}


PUBLIC = _public()
DOCUMENTED = PUBLIC | _formulas()
FUNCTIONS = [name for name in PUBLIC if not inspect.isclass(PUBLIC[name])]
CLASSES = [name for name in PUBLIC if inspect.isclass(PUBLIC[name])]
# The dialects and the pieces of mathematics, which show it.
EQUATIONS = [f'bo.{name}' for name in (*bo.optimizers.__all__, *bo.pieces.__all__)]
EQUATIONS += [f'presets.{name}' for name in PRESETS]
ROOT = Path(__file__).parents[1]
# Every text that shows Python; the first two are long.
TEXTS = [ROOT / 'README.md', ROOT / 'docs' / 'coming_from_pytorch.md']
TEXTS += [path for path in sorted((ROOT / 'docs').glob('*.md')) if '```python' in path.read_text('utf-8')]
TEXTS = list(dict.fromkeys(TEXTS))


def sections(docstring):
  """The sections of a Google style docstring, by title; the text before them has the title ''."""
  found, title = {'': []}, ''
  for line in inspect.cleandoc(docstring).splitlines():
    if re.fullmatch(r'[A-Z]\w+:', line):
      title = line[:-1]
      found[title] = []
    else:
      found[title].append(line)
  return {title: '\n'.join(lines) for title, lines in found.items()}


def entries(section):
  """The names that a section like Args or Attributes explains, in order; a word alone explains nothing."""
  return re.findall(r'^  (\*{0,2}\w+)(?: \([^)]*\))?: \S+ \S', section, re.MULTILINE)


@pytest.mark.parametrize('name', DOCUMENTED)
def test_examples_run(name):
  """Pieces are decorated, so doctest is told not to ask in which module they were defined."""
  known = dict(vars(formulas)) if name.startswith('formulas.') else {}  # what is public brings its own imports
  found = doctest.DocTestFinder().find(DOCUMENTED[name], name, module=False, globs=known)
  runner = doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF)
  report = []
  for test in found:
    runner.run(test, out=report.append)
  assert runner.failures == 0, ''.join(report)


@pytest.mark.parametrize('name', DOCUMENTED)
def test_summary_is_one_sentence(name):
  summary = (inspect.getdoc(DOCUMENTED[name]) or '').partition('\n\n')[0]
  assert summary.endswith(('.', ':')) or '$' in summary, summary


@pytest.mark.parametrize('name', FUNCTIONS)
def test_functions_are_documented_in_full(name):
  function = PUBLIC[name]
  parts = sections(function.__doc__)
  signature = inspect.signature(function)
  parameters = signature.parameters.values()
  expected = ['*' * (p.kind is p.VAR_POSITIONAL) + '*' * 2 * (p.kind is p.VAR_KEYWORD) + p.name for p in parameters]
  assert entries(parts.get('Args', '')) == expected  # every argument, in the order of the signature, and no other
  assert bool(parts.get('Returns', '').strip()) == (signature.return_annotation is not None)
  assert '>>>' in parts.get('Example', '')
  examples = doctest.DocTestParser().get_examples(function.__doc__)
  called = name.removeprefix('bo.')  # a preset is called by its package too, as two have the same name
  assert any(called in example.source for example in examples)


@pytest.mark.parametrize('name', EQUATIONS)
def test_algorithms_pieces_and_presets_show_their_equation(name):
  docstring = PUBLIC[name].__doc__
  assert '.. math::' in docstring or '$' in docstring


@pytest.mark.parametrize('name', [*EQUATIONS, *(name for name in FUNCTIONS if name.startswith('interop.'))])
def test_what_is_refused_is_documented(name):
  assert sections(PUBLIC[name].__doc__).get('Raises', '').strip()


@pytest.mark.parametrize('name', bo.optimizers.__all__)
def test_algorithms_show_their_source(name):
  assert sections(getattr(bo, name).__doc__).get('References', '').strip()


@pytest.mark.parametrize('name', CLASSES)
def test_attributes_of_classes_are_documented(name):
  cls = PUBLIC[name]
  fields = getattr(cls, '_fields', None) or getattr(cls, '__dataclass_fields__', {})
  if cls is bo.Recipe:
    fields = ()  # init and update are explained in its text
    assert all(f'`{method}(' in cls.__doc__ for method in ('init', 'update'))
  assert set(fields) <= set(entries(sections(cls.__doc__).get('Attributes', '')))


def test_public_names_are_sorted_and_complete():
  assert bo.__all__ == sorted(bo.__all__, key=lambda name: (not name[0].isupper(), name))
  assert set(bo.optimizers.__all__) | set(bo.pieces.__all__) <= set(bo.__all__)
  assert all(hasattr(bo, name) for name in bo.__all__)


# The instruments themselves.


def test_sections_and_entries_are_read():
  parts = sections("""Does it.

  Args:
    one: the first
      or: more of it.
    *rest: the rest.
    two (int): the second.

  Returns:
    Nothing.
  """)
  assert list(parts) == ['', 'Args', 'Returns']
  assert entries(parts['Args']) == ['one', '*rest', 'two']


def test_a_wrong_example_is_found():
  def wrong():
    """Adds.

    >>> 1 + 1
    3
    """

  test = doctest.DocTestFinder().find(wrong, 'wrong', module=False, globs={})[0]
  assert doctest.DocTestRunner().run(test, out=lambda _: None).failed == 1


def test_every_public_function_has_an_example_that_doctest_finds():
  """Were the finder to look elsewhere, all examples would pass unseen."""
  for name in FUNCTIONS:
    found = doctest.DocTestFinder().find(PUBLIC[name], name, module=False, globs={})
    assert sum(len(test.examples) for test in found) > 0, name


# The texts.


@pytest.mark.parametrize('text', TEXTS, ids=lambda path: path.stem)
def test_the_examples_of_the_texts_are_right(text):
  found = doctest.testfile(str(text), module_relative=False, encoding='utf-8', optionflags=doctest.ELLIPSIS)
  assert found.attempted > (10 if text in TEXTS[:2] else 0)
  assert found.failed == 0


@pytest.mark.parametrize('text', TEXTS, ids=lambda path: path.stem)
def test_all_python_of_the_texts_is_run(text):
  """A block without a prompt would be shown and never tried."""
  blocks = re.findall(r'^```python\n(.*?)^```', text.read_text('utf-8'), re.DOTALL | re.MULTILINE)
  assert len(blocks) == text.read_text('utf-8').count('```python') > 0
  for block in blocks:
    assert block.startswith('>>> ')
    assert block.endswith('\n\n')  # else the fence would belong to what is expected


def test_the_text_for_users_of_torch_names_every_preset():
  text = TEXTS[1].read_text('utf-8')
  assert [name for name in PRESETS if f'`presets.{name}' not in text] == []
  assert [name for name in interop.__all__ if name not in text] == []
