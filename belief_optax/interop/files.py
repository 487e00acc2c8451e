"""A state_dict of torch in a file of safetensors."""

import contextlib
import json
import numbers
import os
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from belief_optax.interop.state_dict import parts
from belief_optax.interop.values import to_numpy

_GROUPS, _NUMBERS = 'param_groups', 'numbers'


def _safetensors() -> ModuleType:
  try:
    import safetensors.numpy
  except ImportError as e:
    raise ImportError('files of safetensors need the package: pip install "belief_optax[interop]".') from e
  return safetensors


def save_safetensors(path: str | os.PathLike[str], state_dict: Mapping[str, Any]) -> None:
  """Writes the state_dict of an optimizer or a module of torch to a file without pickle.

  The arrays of an optimizer are called `state.0.exp_avg`; its param_groups, and what is a number in its state, are JSON
  in the metadata of the file.

  Args:
    path: the file.
    state_dict: what `dump_state`, `dump_params` or `state_dict()` returned: arrays of torch, NumPy or JAX, and numbers.

  Raises:
    ImportError: if the package safetensors is not installed.
    TypeError: if something is neither an array nor JSON (the schedule of BertAdam), or it is no state_dict.

  Example:
    >>> import os, tempfile, numpy as np
    >>> from belief_optax import interop
    >>> path = os.path.join(tempfile.mkdtemp(), 'module.safetensors')
    >>> interop.save_safetensors(path, {'fc.weight': np.ones((1, 2))})
    >>> interop.load_safetensors(path)
    {'fc.weight': array([[1., 1.]])}
  """
  save_file = _safetensors().numpy.save_file
  metadata: dict[str, str] = {}
  flat: Mapping[str, Any] = state_dict
  if _GROUPS in state_dict:
    parts('state_dict', state_dict)  # raises where it is none
    state = state_dict['state']
    if not all(isinstance(i, int) for i in state):
      raise TypeError(f"the keys of state_dict['state'] must be integers, got {', '.join(map(repr, state))}.")
    flat = {f'state.{i}.{name}': value for i, entry in state.items() for name, value in entry.items()}
    counts = {key: value for key, value in flat.items() if value is None or isinstance(value, numbers.Number)}
    flat = {key: value for key, value in flat.items() if key not in counts}
    metadata = {_GROUPS: _to_json(_GROUPS, state_dict[_GROUPS]), _NUMBERS: _to_json('state', counts)}
  arrays = {key: np.array(to_numpy(value), order='C') for key, value in flat.items()}
  wide = [key for key, array in arrays.items() if array.dtype == np.complex128]
  if wide:
    raise TypeError(f'safetensors has no complex128, the dtype of {", ".join(wide)}.')
  save_file(arrays, os.fspath(path), metadata=metadata)


def _to_json(what: str, value: Any) -> str:
  """JSON in which what torch keeps as a tensor of one number (a learning rate, a step) is a number."""

  def number(x: Any) -> Any:
    with contextlib.suppress(TypeError, ValueError, AttributeError):
      if isinstance(plain := to_numpy(x).item(), int | float):  # not a complex number, nor a longdouble
        return plain
    raise TypeError(f'{what} must be JSON, but hold {x!r}.')

  try:
    return json.dumps(value, default=number)
  except (ValueError, RecursionError) as e:
    raise TypeError(f'{what} must be JSON, but hold themselves: {e}.') from e


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads the state_dict that `save_safetensors` wrote, or the tensors of any other file of safetensors.

  Args:
    path: the file.

  Returns:
    A state_dict of NumPy arrays and numbers: of an optimizer with `state` and `param_groups`, else flat.

  Raises:
    ImportError: if the package safetensors is not installed.
    ValueError: if a file with param_groups in its metadata is not one of `save_safetensors`.

  Example:
    >>> import os, tempfile, numpy as np
    >>> from belief_optax import interop
    >>> path = os.path.join(tempfile.mkdtemp(), 'adam.safetensors')
    >>> entry = {'step': 1, 'exp_avg': np.ones(1), 'exp_avg_sq': np.ones(1)}
    >>> interop.save_safetensors(path, {'state': {0: entry}, 'param_groups': [{'params': [0], 'betas': (0.9, 0.999)}]})
    >>> interop.load_safetensors(path)['state'][0]['step']
    1
  """
  with _safetensors().safe_open(os.fspath(path), framework='numpy') as file:
    metadata = file.metadata() or {}
    arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no dict)
  if _GROUPS not in metadata:
    return arrays
  groups, counts = (_from_json(path, name, metadata, kind) for name, kind in ((_GROUPS, list), (_NUMBERS, dict)))
  state: dict[int, dict[str, Any]] = {}
  for key, value in {**counts, **arrays}.items():
    place = re.fullmatch(r'state\.(\d+)\.(.+)', key)
    if place is None:
      raise ValueError(
        f'{path} has param_groups, so each of its arrays must be called like state.0.exp_avg, got {key!r}.'
      )
    state.setdefault(int(place[1]), {})[place[2]] = value
  return {'state': dict(sorted(state.items())), 'param_groups': groups}


def _from_json(path: Any, name: str, metadata: Mapping[str, str], kind: type[Any]) -> Any:
  """What `save_safetensors` has written in the metadata of a file."""
  try:
    value = json.loads(metadata[name])
  except (KeyError, ValueError, RecursionError) as e:
    raise ValueError(f'{path} is no file of save_safetensors: {name!r} of its metadata is {_said(e)}.') from e
  if not isinstance(value, kind) or (kind is list and not all(isinstance(group, dict) for group in value)):
    words = 'a list of param_groups' if kind is list else 'an object of numbers'
    raise ValueError(
      f'{path} is no file of save_safetensors: {name!r} of its metadata must be {words}, got {value!r:.80}.'
    )
  for group in value if kind is list else ():
    if isinstance(group.get('betas'), list):
      group['betas'] = tuple(group['betas'])  # JSON has no tuples
  return value


def _said(error: Exception) -> str:
  if isinstance(error, KeyError):
    return 'missing'
  return 'nested too deep' if isinstance(error, RecursionError) else f'no JSON ({error})'
