"""What the state_dict of an optimizer of torch is."""

import numbers
from collections.abc import Mapping
from typing import Any

Entries = dict[Any, dict[str, Any]]


def state_dict_of(like: Any) -> Mapping[str, Any]:
  """The state_dict of an optimizer or a module, or what is one already."""
  return like.state_dict() if hasattr(like, 'state_dict') else like


def parts(name: str, state_dict: Any) -> tuple[Entries, list[dict[str, Any]]]:
  """The state without what is None, and the param_groups."""
  if not isinstance(state_dict, Mapping) or not {'state', 'param_groups'} <= set(state_dict):
    raise TypeError(
      f"{name} must be an optimizer's state_dict, with 'state' and 'param_groups', got {state_dict!r:.80}."
    )
  state, groups = state_dict['state'], state_dict['param_groups']
  if not isinstance(state, Mapping) or not all(isinstance(entry, Mapping) for entry in state.values()):
    raise TypeError(f"{name}['state'] must map the index of a parameter to its entries, got {state!r:.80}.")
  if not isinstance(groups, list | tuple) or not all(map(_is_group, groups)):
    raise TypeError(
      f"{name}['param_groups'] must be a list of groups, each with the indices of its 'params' and, if it has "
      f"'param_names', as many of these, got {groups!r:.200}."
    )
  present = lambda entry: {key: value for key, value in entry.items() if value is not None}
  return {index: present(entry) for index, entry in state.items()}, [dict(group) for group in groups]


def _is_group(group: Any) -> bool:
  if not isinstance(group, Mapping) or not isinstance(group.get('params'), list | tuple):
    return False
  if not all(isinstance(index, numbers.Integral) for index in group['params']):
    return False
  names = group.get('param_names', group['params'])
  return isinstance(names, list | tuple) and len(names) == len(group['params'])


def names_of(groups: list[dict[str, Any]], by_name: bool) -> dict[Any, str]:
  """Torch's indices, in its order, and its names, or the indices as text where it has none.

  Args:
    groups: the param_groups.
    by_name: whether there must be names.
  """
  if by_name and not all('param_names' in group for group in groups):
    raise ValueError(
      'names maps names, but the param_groups have no param_names: make the optimizer of model.named_parameters(), or '
      'pass the paths as a list in the order of model.parameters().'
    )
  named = ((group['params'], group.get('param_names', group['params'])) for group in groups)
  pairs = [pair for indices, names in named for pair in zip(indices, names, strict=True)]
  names = {index: str(name) for index, name in pairs}
  if len(names) < len(pairs) or (by_name and len(set(names.values())) < len(pairs)):
    raise ValueError(f'the param_groups name a parameter twice: {pairs}.')
  return names
