"""All that does not fit, in one error."""

from typing import Any


class Problems(list[str]):
  """Collects what does not fit, so that one error can list it."""

  def add(self, where: Any, what: str, expected: Any, found: Any) -> None:
    self.append(f'{where}: {what}: expected {expected}, found {found}.')

  def check(self, what: str) -> None:
    """Raises a ValueError that lists everything, if there is anything."""
    if self:
      raise ValueError(f'{what} does not fit:\n' + '\n'.join(f'  {problem}' for problem in self))
