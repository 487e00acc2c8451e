"""Numbers as people write them on a command line, and how they are printed."""

import argparse
import re

_SCALES = {'': 1, 'K': 1e3, 'M': 1e6, 'B': 1e9, 'G': 1e9, 'T': 1e12}
_SIZE = re.compile(r'([\d.]+(?:e[+-]?\d+)?)\s*(?:([KMGT])(i?))?B?', re.IGNORECASE)
_COUNT = re.compile(r'([\d.]+(?:e[+-]?\d+)?)\s*([KMBGT]?)', re.IGNORECASE)


def count(text: str) -> int:
  """A number of parameters: 8e9, 8B, 350M."""
  found = _COUNT.fullmatch(text.strip().replace('_', '').replace(',', ''))
  number = _number(found[1]) * _SCALES[found[2].upper()] if found else 0
  if not 1 <= number < 1e18:
    raise argparse.ArgumentTypeError(f'must be a number of parameters such as 8e9, 8B or 350M, got {text!r}')
  return round(number)


def size(text: str) -> float:
  """A number of bytes: 80e9, 80GB, 80GiB."""
  found = _SIZE.fullmatch(text.strip())
  number = 0.0
  if found:
    scale = (found[2] or '').upper()
    number = _number(found[1]) * (2.0 ** (10 * ' KMGT'.index(scale)) if found[3] else _SCALES[scale])
  if not 1 <= number < 1e18:
    raise argparse.ArgumentTypeError(f'must be a number of bytes such as 80e9, 80GB or 80GiB, got {text!r}')
  return number


def mesh(text: str) -> tuple[int, int]:
  """The sizes of the data axis and of the model axis: 64, or 64x8."""
  found = re.fullmatch(r'([1-9]\d{0,6})(?:x([1-9]\d{0,6}))?', text.strip().lower())
  if not found:
    raise argparse.ArgumentTypeError(f'must be the size of the data axis, or of data x model as in 64x8, got {text!r}')
  return int(found[1]), int(found[2] or 1)


def _number(text: str) -> float:
  try:
    return float(text)
  except ValueError:
    return 0.0


def gib(nbytes: float) -> str:
  """Bytes as GiB with three digits."""
  x = nbytes / 2**30
  return '< 0.001' if 0 < x < 0.001 else f'{x:,.0f}' if x >= 100 else f'{x:.3g}'


def short(number: float) -> str:
  """A number of parameters: 8.03B."""
  for scale, letter in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'K')):
    if number >= scale:
      return f'{number / scale:.3g}{letter}'
  return f'{number:.0f}'
