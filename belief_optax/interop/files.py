"""A state_dict of torch in a file of safetensors."""

import contextlib
import json
import numbers
import os
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np

from belief_optax.interop.values import to_numpy

_GROUPS, _NUMBERS = 'param_groups', 'numbers'


def _safetensors() -> ModuleType:
  try:
    import safetensors.numpy  # pyright: ignore[reportMissingImports]
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
    TypeError: if something is neither an array nor JSON (the schedule of BertAdam).

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
    state = state_dict['state']
    flat = {f'state.{i}.{name}': value for i, entry in state.items() for name, value in entry.items()}
    counts = {key: value for key, value in flat.items() if value is None or isinstance(value, numbers.Number)}
    flat = {key: value for key, value in flat.items() if key not in counts}
    metadata = {_GROUPS: json.dumps(state_dict[_GROUPS], default=_number), _NUMBERS: json.dumps(counts)}
  arrays = {key: np.array(to_numpy(value), order='C') for key, value in flat.items()}
  wide = [key for key, array in arrays.items() if array.dtype == np.complex128]
  if wide:
    raise TypeError(f'safetensors has no complex128, the dtype of {", ".join(wide)}.')
  save_file(arrays, os.fspath(path), metadata=metadata)


def _number(value: Any) -> Any:
  """A learning rate that is a tensor."""
  with contextlib.suppress(TypeError, ValueError, AttributeError):
    return to_numpy(value).item()
  raise TypeError(f'param_groups must be JSON, but hold {value!r}.')


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, Any]:
  """Reads the state_dict that `save_safetensors` wrote, or the tensors of any other file of safetensors.

  Args:
    path: the file.

  Returns:
    A state_dict of NumPy arrays and numbers: of an optimizer with `state` and `param_groups`, else flat.

  Raises:
    ImportError: if the package safetensors is not installed.

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
  state: dict[int, dict[str, Any]] = {}
  for key, value in {**json.loads(metadata[_NUMBERS]), **arrays}.items():
    _, i, name = key.split('.', 2)
    state.setdefault(int(i), {})[name] = value
  groups = json.loads(metadata[_GROUPS])
  for group in groups:
    if 'betas' in group:
      group['betas'] = tuple(group['betas'])  # JSON has no tuples
  return {'state': dict(sorted(state.items())), 'param_groups': groups}
