"""Options from signatures: every optimizer and preset is on the command line as it is in Python.

The type of an argument says what an option takes, and its docstring what it means. Only what can be written as text has
an option: a number, a flag, one of some strings, a dtype, a store. A mask or a schedule needs Python.
"""

import argparse
import inspect
import json
import re
import typing
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, get_args

import optax

import belief_optax as bo
from belief_optax import optimizers, presets
from belief_optax.cli.answer import sentences
from belief_optax.core.vocabulary import StoreLike

RATES = {'learning_rate': 1e-3, 'lr': 1e-3}  # what must be given in Python, and need not be to describe


def _found() -> dict[str, Callable[..., Any]]:
  """All optimizers by name, and all presets by package and name."""
  named = {name: getattr(bo, name) for name in optimizers.__all__}
  for package in presets.__all__:
    module = getattr(presets, package)
    if inspect.ismodule(module):
      for name, function in inspect.getmembers(module, inspect.isfunction):
        # The pieces that a preset needs for itself are made elsewhere, by `piece`.
        if not name.startswith('_') and function.__code__.co_filename == module.__file__:
          named[f'presets.{package}.{name}'] = function
  return named


OPTIMIZERS = _found()


class Given(NamedTuple):
  """How an argument is written on the command line.

  Attributes:
    name: its name in Python.
    flag: its name here.
    how: what `argparse` is told.
  """

  name: str
  flag: str
  how: dict[str, Any]


def summary(function: Callable[..., Any]) -> str:
  """The first sentence of its docstring."""
  return (inspect.getdoc(function) or '').partition('\n\n')[0].replace('`', '').replace('\n', ' ')


def words(function: Callable[..., Any]) -> dict[str, str]:
  """What the docstring says of each argument."""
  section = re.search(r'^Args:\n((?:  .*\n|\n)+)', f'{inspect.getdoc(function)}\n', re.MULTILINE)
  found = re.findall(r'^  (\w+): (.*\n(?:    .*\n)*)', section[1] if section else '', re.MULTILINE)
  return {name: ' '.join(text.split()) for name, text in found}


def options(function: Callable[..., Any]) -> list[Given]:
  """The arguments of an optimizer that can be written on a command line."""
  said, found = words(function), []
  for name, parameter in inspect.signature(function).parameters.items():
    how = _how(parameter)
    if how is not None:
      text = said.get(name, '').replace('`', '').replace('%', '%%').rstrip('.')
      default = RATES.get(name, parameter.default)
      required = default is inspect.Parameter.empty
      found.append(
        Given(
          name,
          f'--{name.replace("_", "-")}',
          how
          | {'dest': f'of_{name}', 'default': argparse.SUPPRESS, 'required': required}
          | {'help': text if required else f'{text} (default: {_shown(default)})'},
        )
      )
  return found


def _how(parameter: inspect.Parameter) -> dict[str, Any] | None:
  """What argparse is told of a type; None for what cannot be written."""
  kind, default = parameter.annotation, parameter.default
  if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
    return None
  if kind == StoreLike:
    return {'type': _store, 'metavar': 'STORE'}
  strings = [
    one for one in (*get_args(kind), *(x for part in get_args(kind) for x in get_args(part))) if isinstance(one, str)
  ]
  if strings:
    return {'choices': strings}
  if kind is bool:
    return {'action': argparse.BooleanOptionalAction}
  if kind is str:
    return {'metavar': 'TEXT'}
  if kind is int:
    return {'type': _numbers(whole=True), 'metavar': 'N'}
  if typing.get_origin(kind) is tuple and isinstance(default, tuple):
    return {'type': _numbers(len(default)), 'nargs': len(default), 'metavar': 'X', 'action': _AsTuple}
  if kind == optax.ScalarOrSchedule or kind is float:
    return {'type': _numbers(), 'metavar': 'X'}
  if optax.ScalarOrSchedule in get_args(kind) or set(get_args(optax.ScalarOrSchedule)) <= set(get_args(kind)):
    return {'type': _numbers(optional=type(None) in get_args(kind)), 'metavar': 'X'}
  if parameter.name.endswith('dtype'):
    return {'choices': ('float32', 'bfloat16', 'float16')}
  return None


class _AsTuple(argparse.Action):
  """Several numbers as the tuple that Python has."""

  def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
    setattr(namespace, self.dest, tuple(values))


def _numbers(_: int = 1, *, whole: bool = False, optional: bool = False) -> Callable[[str], Any]:
  def number(text: str) -> Any:
    if optional and text.lower() == 'none':
      return None
    try:
      return int(text) if whole else float(text)
    except ValueError:
      kind = 'a whole number' if whole else 'a number'
      raise argparse.ArgumentTypeError(f'must be {kind}{" or none" if optional else ""}, got {text!r}') from None

  return number


def _store(text: str) -> Any:
  """The name of a store, or stores by slot: mu=float32,nu=int8."""
  if '=' not in text:
    return text
  pairs = [part.split('=', 1) for part in text.split(',')]
  if any(len(pair) != 2 for pair in pairs):
    raise argparse.ArgumentTypeError(f'must be a store, or stores by slot as in mu=float32,nu=int8, got {text!r}')
  return {slot.strip(): store.strip() for slot, store in pairs}


def _shown(value: Any) -> str:
  return 'none' if value is None else value if isinstance(value, str) else repr(value)


def _with_rates(parameters: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
  """The arguments, with the learning rate that stands for one that was not given."""
  rates: dict[str, Any] = {rate: x for rate, x in RATES.items() if rate in parameters}
  return rates | dict(given)


def built(name: str, given: Mapping[str, Any]) -> Any:
  """Makes an optimizer, or raises a Misuse that says what is wrong with its arguments."""
  function = OPTIMIZERS[name]
  parameters = inspect.signature(function).parameters
  given = _with_rates(parameters, given)
  store = {'store': given.pop('store')} if 'store' in given and 'store' not in parameters else {}
  with sentences(), warnings.catch_warnings(record=True):  # a preset warns of the bug that it reproduces
    warnings.simplefilter('always')
    tx = function(**given)
    return bo.compose(tx, **store) if store else tx


def as_python(name: str, given: Mapping[str, Any]) -> str:
  """The call in Python that makes the same."""
  parameters = inspect.signature(OPTIMIZERS[name]).parameters
  given = _with_rates(parameters, given)
  prefix = '' if name.startswith('presets.') else 'bo.'
  return f'{prefix}{name}({", ".join(f"{key}={value!r}" for key, value in given.items())})'


def as_json(value: Any) -> Any:
  """A value that JSON can hold."""
  return json.loads(json.dumps(value, default=str))
