"""Every public name is documented: what it takes, what it gives, and an example that runs."""

import doctest
import inspect
import re
from pathlib import Path

import pytest

import belief_optax as bo
from belief_optax import formulas


def _documented():
  """Public names, methods that users call, and the formulas; pieces are functions made from classes."""
  names = {f'bo.{name}': getattr(bo, name) for name in bo.__all__}
  own = inspect.getmembers(formulas, lambda f: callable(f) and getattr(f, '__module__', '') == formulas.__name__)
  return names | {f'formulas.{name}': f for name, f in own if not name.startswith('_')}


DOCUMENTED = _documented()
README = Path(__file__).parents[1] / 'README.md'
FUNCTIONS = [name for name in bo.__all__ if not inspect.isclass(getattr(bo, name))]
CLASSES = [name for name in bo.__all__ if inspect.isclass(getattr(bo, name))]


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
  """The names that a section like Args or Attributes explains, in order."""
  return re.findall(r'^  (\*{0,2}\w+)(?: \([^)]*\))?: \S', section, re.MULTILINE)


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
  function = getattr(bo, name)
  parts = sections(function.__doc__)
  parameters = inspect.signature(function).parameters.values()
  expected = ['*' * (p.kind is p.VAR_POSITIONAL) + '*' * 2 * (p.kind is p.VAR_KEYWORD) + p.name for p in parameters]
  assert entries(parts.get('Args', '')) == expected  # every argument, in the order of the signature, and no other
  assert parts.get('Returns', '').strip()
  assert '>>>' in parts.get('Example', '')
  examples = doctest.DocTestParser().get_examples(function.__doc__)
  assert any(name in example.source for example in examples)


@pytest.mark.parametrize('name', [*bo.algorithms.__all__, *bo.pieces.__all__])
def test_algorithms_and_pieces_show_their_equation(name):
  docstring = getattr(bo, name).__doc__
  assert '.. math::' in docstring or '$' in docstring
  assert sections(docstring).get('Raises', '').strip()
  if name in bo.algorithms.__all__:
    assert sections(docstring).get('References', '').strip()


@pytest.mark.parametrize('name', CLASSES)
def test_attributes_of_classes_are_documented(name):
  cls = getattr(bo, name)
  fields = getattr(cls, '_fields', None) or getattr(cls, '__dataclass_fields__', {})
  if cls is bo.Recipe:
    fields = ()  # init and update are explained in its text
    assert all(f'`{method}(' in cls.__doc__ for method in ('init', 'update'))
  assert set(fields) <= set(entries(sections(cls.__doc__).get('Attributes', '')))


def test_public_names_are_sorted_and_complete():
  assert bo.__all__ == sorted(bo.__all__, key=lambda name: (not name[0].isupper(), name))
  assert set(bo.algorithms.__all__) | set(bo.pieces.__all__) <= set(bo.__all__)
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


def test_every_public_piece_has_an_example_that_doctest_finds():
  """Were the finder to look elsewhere, all examples would pass unseen."""
  for name in FUNCTIONS:
    found = doctest.DocTestFinder().find(getattr(bo, name), name, module=False, globs={})
    assert sum(len(test.examples) for test in found) > 0, name


def test_the_examples_of_the_readme_are_right():
  found = doctest.testfile(str(README), module_relative=False)
  assert found.attempted > 10
  assert found.failed == 0
