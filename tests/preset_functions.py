"""Every public preset by its name, found rather than listed: a new one is tested and documented or a test fails."""

import inspect

from belief_optax import presets

MODULES = [getattr(presets, name) for name in presets.__all__ if inspect.ismodule(getattr(presets, name))]


def _own(module):
  """The public functions that a module defines; the pieces that a preset needs for itself are made by `piece`."""
  functions = [f for _, f in inspect.getmembers(module, inspect.isfunction) if f.__module__ == module.__name__]
  return [f for f in functions if not f.__name__.startswith('_') and f.__code__.co_filename == module.__file__]


PRESETS = {f'{module.__name__.rpartition(".")[2]}.{f.__name__}': f for module in MODULES for f in _own(module)}
