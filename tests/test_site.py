"""The site: every public name and every piece has its place, examples lose their prompts, and it builds offline."""

import html.parser
import importlib
import inspect
import os
import pathlib
import pkgutil
import re
import runpy
import subprocess
import sys
import types

import pytest
from preset_functions import PRESETS

import belief_optax as bo
from belief_optax import diagnostics, interop, optimizers, presets, sharding, stores

ROOT = pathlib.Path(__file__).parents[1]
site = types.SimpleNamespace(**runpy.run_path(str(ROOT / 'tools' / 'site.py')))


@pytest.fixture(scope='module')
def pages():
  return site.pages()


def headings(pages):
  """The anchors of each page."""
  return {path: set(re.findall(r'\{ #([\w-]+) \}', text)) for path, text in pages.items()}


def test_no_public_name_is_missing(pages):
  found = headings(pages)
  for name in bo.__all__:
    if not inspect.ismodule(getattr(bo, name)):
      places = ('reference/package.md', 'reference/pieces.md', f'optimizers/{name}.md')
      assert any(name in found.get(place, ()) for place in places), name
  modules = {'stores': stores, 'sharding': sharding, 'interop': interop, 'execution': bo.execution, 'core': bo.core}
  for page, module in modules.items():
    assert {*module.__all__} <= found[f'reference/{page}.md'] | {
      name for name in module.__all__ if inspect.ismodule(getattr(module, name))
    }, page
  named = {name.replace('.', '-') for name in PRESETS}
  assert named | {'DialectWarning', 'labml-WeightDecay'} <= found['reference/presets.md']
  assert inspect.isclass(presets.DialectWarning)


def test_every_package_with_public_names_has_a_page(pages):
  """A new package, as `diagnostics` was, comes by itself."""
  for info in pkgutil.iter_modules(bo.__path__):
    module = importlib.import_module(f'belief_optax.{info.name}')
    if info.ispkg and getattr(module, '__all__', None):
      assert f'reference/{info.name}.md' in pages or info.name == 'optimizers'
      assert info.name != 'optimizers' or 'optimizers/index.md' in pages


@pytest.mark.parametrize('name', optimizers.__all__)
def test_every_piece_stands_beside_its_equation(pages, name):
  page = pages[f'optimizers/{name}.md']
  rows = page.split('<div class="piece" markdown>')[1:]
  tx = site.made(getattr(bo, name))
  steps = [step for part in diagnostics.describe(tx).parts for step in part.steps]
  assert len(rows) == len(steps) > 0
  for row, step in zip(rows, steps, strict=True):
    assert re.match(r'\w+', step.call)[0] in row
    assert f'$$\n{step.equation}\n$$' in row
    assert step.summary in row
  assert f'[`{name}`]({name}.md)\n:   ' in pages['optimizers/index.md']


def test_what_options_change_is_what_they_change(pages):
  page = pages['optimizers/adabelief.md']
  assert '`rectify=True`\n:   with `rectify(b2=0.999, threshold=5.0, degenerate_to_sgd=False)`' in page
  assert '`amsgrad=True`\n:   with `running_max(eps_root=0.0)`' in page
  assert "`weight_decay_mode='l2'`\n:   another order: `add_decayed_weights`, `first_moment`" in page


def test_every_argument_is_explained(pages):
  for name in optimizers.__all__:
    page = pages[f'optimizers/{name}.md']
    missing = [
      argument for argument in inspect.signature(getattr(bo, name)).parameters if f'\n`{argument}`' not in page
    ]
    assert missing == [], name


def test_examples_are_shown_without_prompts(pages):
  written = {path.name: site.prepared(path.read_text('utf-8')) for path in (ROOT / 'docs').glob('*.md')}
  for path, text in (pages | written).items():
    shown = site.prepared(text)
    assert [line for line in shown.splitlines() if line.startswith('>>> ')] == [], path
  shown = site.prepared('```python\n>>> x = 1\n>>> if x:\n...   print(x)\n1\n>>> x\n1\n\n```\n')
  assert re.findall(r'``` ?(.*)\n([^`]*)\n```', shown) == [
    ('python', 'x = 1\nif x:\n  print(x)'), ('{ .text .output }', '1'), ('python', 'x'), ('{ .text .output }', '1'),
  ]  # fmt: skip


def test_docstrings_become_markdown():
  text = site.markdown('Adds ``x=1``.\n\n.. math::\n  a &= b \\\\\n  c &= d\n\nAs follows:\n- one, $x$;\n- two.')
  assert re.sub(r'\n{2,}', '\n\n', text) == (
    'Adds `x=1`.\n\n$$\n\\begin{split} a &= b \\\\ c &= d \\end{split}\n$$\n\nAs follows:\n\n- one, $x$;\n- two.'
  )
  assert site.entries('one: the first\n  or more.\n**rest: others.\n') == [
    ('one', 'the first\n  or more.\n'),
    ('**rest', 'others.\n'),
  ]


def test_the_navigation_has_what_is_there():
  nav = site.navigation(
    [{'A': 'index.md'}, {'O': 'optimizers'}, {'G': [{'S': 'start.md?'}, {'N': 'nowhere.md?'}, 'more']}]
  )
  assert nav[0] == {'A': 'index.md'}
  assert [name for one in nav[1]['O'] for name in one] == ['All', *optimizers.__all__]
  assert nav[2]['G'][0] == {'S': 'start.md'}
  text = (ROOT / 'mkdocs.yml').read_text('utf-8')
  assert {'nowhere.md'} & {file for one in nav[2]['G'] for file in one.values()} == set()
  unnamed = {path.name for path in (ROOT / 'docs').glob('*.md') if path.name not in text}
  assert {file for one in nav[2]['G'][1:] for file in one.values()} == unnamed


def test_the_home_page_is_the_readme_with_links_that_hold(pages):
  assert site.home('[a](docs/start.md) [b](tests/README.md) [c](https://x.y) ![d](docs/digits_curves.png)') == (
    '[a](start.md) b [c](https://x.y) ![d](digits_curves.png)'
  )
  assert pages['index.md'].startswith('# belief_optax\n')


def test_formulas_become_mathml():
  pytest.importorskip('latex2mathml')
  page = site.mathml(r'<p><span class="arithmatex">\(b_1 &lt; |g|\)</span></p>')
  assert page.startswith('<p><math')
  assert '&#x0003C;' in page
  assert page.count('lspace="0"') == 2
  with pytest.raises(ValueError, match=r'no MathML for .*frob'):
    site.mathml(r'<span class="arithmatex">\(\frob{1}\)</span>')


class _Page(html.parser.HTMLParser):
  """What a page loads, and whether formulas are left."""

  def __init__(self):
    super().__init__()
    self.loads, self.math = [], 0

  def handle_starttag(self, tag, attrs):
    attrs = dict(attrs)
    self.math += tag == 'math'
    if tag in ('script', 'img', 'iframe') and attrs.get('src'):
      self.loads.append(attrs['src'])
    if tag == 'link' and attrs.get('rel') in ('stylesheet', 'icon', 'preload'):
      self.loads.append(attrs['href'])


def test_it_builds_offline_and_strictly(tmp_path):
  pytest.importorskip('mkdocs')
  command = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', str(tmp_path)]
  env = os.environ | {'PYTHONPATH': str(ROOT), 'NO_MKDOCS_2_WARNING': '1', 'http_proxy': 'http://127.0.0.1:9'}
  done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
  for path in tmp_path.rglob('*.html'):
    text, page = path.read_text('utf-8'), _Page()
    page.feed(text)
    assert [url for url in page.loads if '//' in url] == [], path.name
    assert 'class="arithmatex"' not in text
    if path.parent.name == 'optimizers' and path.name != 'index.html':
      assert page.math > 2
  assert (tmp_path / 'assets' / 'math.woff2').stat().st_size > 50_000
