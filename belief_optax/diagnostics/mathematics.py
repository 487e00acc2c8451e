"""The equations of lines: where they stand, which is the docstring, and how they read as text."""

import inspect
import itertools
import re
import unicodedata
from collections.abc import Iterator

from belief_optax.core import Line

_BLOCK = re.compile(r'^\.\. math::(.*(?:\n(?:  .*|(?=\n  )))*)', re.MULTILINE)
_INLINE = re.compile(r'\$(.+?)\$', re.DOTALL)
_TOKEN = re.compile(r'\\[a-zA-Z]+|\\.|\s+|.', re.DOTALL)

_SYMBOLS = {
  'alpha': 'α', 'beta': 'β', 'gamma': 'γ', 'delta': 'δ', 'epsilon': 'ε', 'varepsilon': 'ε', 'eta': 'η', 'theta': 'θ',
  'lambda': 'λ', 'mu': 'μ', 'nu': 'ν', 'rho': 'ρ', 'sigma': 'σ', 'tau': 'τ', 'phi': 'φ', 'omega': 'ω',
  'leftarrow': '←', 'to': '→', 'infty': '∞', 'ge': '≥', 'geq': '≥', 'le': '≤', 'leq': '≤', 'ne': '≠', 'approx': '≈',
  'cdot': '·', 'times': '×', 'odot': '⊙', 'sum': 'Σ', 'prod': 'Π', 'mid': 'divides', 'in': '∈', 'pm': '±',
  'cdots': '...', 'ldots': '...', 'dots': '...', 'quad': '  ', 'qquad': '   ', 'left': '', 'right': '', 'lVert': '‖',
  'rVert': '‖', 'Vert': '‖',
}  # fmt: skip
_ACCENTS = {'hat': '\u0302', 'bar': '\u0304', 'tilde': '\u0303'}
_WORDS = ('text', 'operatorname', 'mathrm', 'mathbf')


def documentation(line: Line) -> str:
  """The docstring of a line's class; '' where it has none, or only the signature that a dataclass writes."""
  found = inspect.cleandoc(type(line).__doc__ or '')
  return '' if found.startswith(f'{type(line).__name__}(') else found


def summary(line: Line) -> str:
  """The first sentence of its documentation."""
  return ' '.join(documentation(line).partition('\n\n')[0].split())


def equation(line: Line) -> str:
  """The equation of a line in LaTeX: the first that its docstring displays, else one in its summary, else ''."""
  text = documentation(line)
  found = _BLOCK.search(text) or _INLINE.search(text.partition('\n\n')[0])
  return ' '.join(found[1].split()) if found else ''


def plain(latex: str) -> str:
  r"""LaTeX as a line of text, for a terminal.

  >>> plain(r'\hat{m}_t \leftarrow \frac{m_{t-1}}{1 - b_1^t}')
  'm̂_t ← m_(t-1) / (1 - b_1^t)'
  """
  text = ' '.join(_read(iter(_TOKEN.findall(latex))).split())
  return unicodedata.normalize('NFC', re.sub(r' *([,;]) *', r'\1 ', text).strip())


def _read(tokens: Iterator[str], end: str = '') -> str:
  """The text of what stands before a closing token."""
  out: list[str] = []
  for token in tokens:
    if token == end:
      break
    out.append(_text(token, tokens))
  return ''.join(out)


def _text(token: str, tokens: Iterator[str]) -> str:
  if token == '{':
    return _read(tokens, '}')
  if token in '_^':
    inner = _argument(tokens)
    return token + (inner if re.fullmatch(r'[\w∞]+', inner) else f'({inner})')
  if token.isspace():
    return ' '
  if not token.startswith('\\'):
    return token
  name = token[1:]
  if name == 'frac':
    return f'{_factor(_argument(tokens))} / {_factor(_argument(tokens))}'
  if name == 'sqrt':
    return f'sqrt({_argument(tokens)})'
  if name in _ACCENTS:
    return _argument(tokens) + _ACCENTS[name]
  if name in _WORDS:
    return _argument(tokens)
  if name == 'begin':
    return _cases(tokens, _argument(tokens))
  return _SYMBOLS.get(name, name if name[0].isalpha() else ' ' if name in ',;: ' else name)


def _argument(tokens: Iterator[str]) -> str:
  """What a command applies to: a group, or the next token."""
  token = next((token for token in tokens if not token.isspace()), '')
  return _text(token, tokens)


def _factor(text: str) -> str:
  """A term that may stand beside a slash."""
  return text if re.fullmatch(r'[\w∞]+', text) else f'({text})'


def _cases(tokens: Iterator[str], name: str) -> str:
  inside = list(itertools.takewhile(lambda token: token != '\\end', tokens))
  _argument(tokens)
  if name != 'cases':
    return _read(iter(inside))
  rows = ''.join(inside).split('\\\\')
  branches = [[plain(part) for part in row.split('&')] for row in rows]
  words = [f'{value} {"" if when == "else" else "if "}{when}' for value, when in branches]
  return '{' + '; '.join(words) + '}'
