"""All that does not fit, in one error."""

from typing import Any


class Problems(list[str]):
  """Collects what does not fit, so that one error can list it, with what can be done about it behind."""

  def __init__(self) -> None:
    super().__init__()
    self._hints: dict[str, None] = {}

  def add(self, where: Any, what: str, expected: Any, found: Any, hint: str | None = None) -> None:
    self.append(f'{where}: {what}: expected {expected}, found {found}.')
    if hint is not None:
      self._hints[hint] = None

  def check(self, what: str) -> None:
    """Raises a ValueError that lists everything, if there is anything."""
    if self:
      raise ValueError(f'{what} does not fit:\n' + '\n'.join(f'  {problem}' for problem in (*self, *self._hints)))
