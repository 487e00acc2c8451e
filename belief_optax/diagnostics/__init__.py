"""What an optimizer is and what it does: `describe`."""

from belief_optax.diagnostics.description import Constant, Description, Part, Step, describe

__all__ = ['Constant', 'Description', 'Part', 'Step', 'describe']
