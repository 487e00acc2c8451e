"""The protocol of a store: what is kept of one parameter between the steps, and which slots are kept together."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from belief_optax.core import dtypes
from belief_optax.core.masks import normal_mask
from belief_optax.core.memory import full_like, in_device_memory
from belief_optax.core.slot import Slot
from belief_optax.stores import bits

Group = tuple[Slot, ...]
Dither = Callable[[int], tuple[jax.Array, jax.Array]]
Kept = tuple[jax.Array, ...]  # what is kept of one parameter


class Route(NamedTuple):
  """Which slots are kept together, and by which store.

  Attributes:
    keys: under which `State.slots` holds the parts of what is kept.
    store: the store.
    group: the slots.
  """

  keys: tuple[str, ...]
  store: 'Store'
  group: Group

  def bare(self) -> 'Route':
    """The route without values of the user: no mask, and no first values."""
    return Route(self.keys, self.store.bare(), tuple(slot._replace(fill=0.0) for slot in self.group))


def bundle(values: Sequence[jax.Array]) -> jax.Array:
  """Real or complex arrays of one shape as one, with a last axis over their reals."""
  parts = [part for x in values for part in ((x.real, x.imag) if jnp.iscomplexobj(x) else (x,))]
  return jnp.stack(parts, -1)


def unbundle(group: Group, kept: jax.Array) -> Sequence[jax.Array]:
  """The arrays of a bundle, one for each slot."""
  parts = iter(jnp.moveaxis(kept, -1, 0))
  pairs = kept.shape[-1] - len(group)  # how many slots are complex: none, all, or those that are not real
  pair = lambda slot: pairs == len(group) or (pairs and not slot.real)
  return [jax.lax.complex(next(parts), next(parts)) if pair(slot) else next(parts) for slot in group]


@dataclasses.dataclass(frozen=True)
class Store:
  """How slots are kept between the steps: a value with three functions on what is kept of ONE parameter.

  What is kept is a tuple of arrays, of which each stands in a tree of its own in `State.slots`, with the structure of
  the parameters. To write a store, subclass this as a frozen dataclass:

  - `parts` names the arrays. Each has the parameter's shape; a trailing axis may follow. What is kept of an element
    depends on that element alone, so every sharding is local. A name that
    is not empty becomes part of the key in `State.slots`: codes whose bits only this store can read need one, as a
    checkpoint that is restored for another store is cast, without an error, where only the dtype differs;
  - `init` makes what is kept of the first values;
  - `load` makes the values of it, at the beginning of a step;
  - `save` makes what is kept of the new values, with the types that the old one had. Where it rounds, `rounds` says so,
    and the rest of the step is taken with what `load` makes of it.

  This class keeps the values as they are, and `save` casts them to what `init` has chosen. All algorithms,
  `decode_state`, `convert_state` and tools that map over a state then work as with the stores of this package.

  Example:
    >>> import dataclasses, belief_optax as bo, jax.numpy as jnp
    >>> @dataclasses.dataclass(frozen=True)
    ... class Short(bo.stores.Store):  # bfloat16, rounded to nearest: enough for a mean at b1 = 0.9
    ...   def init(self, group, values, p, on):
    ...     return (values[0].astype(jnp.bfloat16),)
    ...   def rounds(self, group, kept):
    ...     return True
    >>> tx = bo.adam(1e-3, store={'mu': Short()})
    >>> tx.init(jnp.ones(3)).slots['mu'].dtype.name
    'bfloat16'
  """

  @property
  def where(self) -> Any:
    """The leaves to which it applies: a mask, or None for all."""
    return None

  def bare(self) -> 'Store':
    """The store as a step needs it: without a mask, which only `init` reads and which may hold what it likes."""
    return self

  def groups(self, slots: Group) -> Iterable[Group]:
    """Which slots are kept together."""
    return ((slot,) for slot in slots)

  def parts(self, group: Group) -> tuple[str, ...]:
    """The names of the arrays that are kept of a group."""
    return ('',)

  def init(self, group: Group, values: Sequence[jax.Array], p: Any, on: bool) -> Kept:
    """What is kept of the first values; `on` is what the mask says of the parameter p."""
    return (self._together(values),)

  def rounds(self, group: Group, kept: Kept) -> bool:
    """Whether `save` rounds what this holds; raises where a store like this one has not made it."""
    return False

  def misfit(self, group: Group, kept: Kept) -> TypeError:
    """The error that says that a state was made by another store."""
    names, held = ' and '.join(slot.name for slot in group), ', '.join(f'{x.dtype.name}{list(x.shape)}' for x in kept)
    return TypeError(
      f'the state of {names}, which holds {held}, was written by another store than {self!r}: see `convert_state`.'
    )

  def largest_gradient(self, group: Group, kept: Kept) -> float:
    """The largest gradient whose square it can hold."""
    return math.inf

  def load(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    """The values of a group."""
    return self._apart(group, kept[0])

  def save(self, group: Group, values: Sequence[jax.Array], kept: Kept, dither: Dither) -> Kept:
    """What is kept of new values. `dither(i)` gives two arrays of uint32, uniform and even over the steps."""
    return (self._together(values).astype(kept[0].dtype), *kept[1:])

  def _together(self, values: Sequence[jax.Array]) -> jax.Array:
    """Values as they are in one array: the array itself, if there is one."""
    return values[0] if len(values) == 1 else bundle(values)

  def _apart(self, group: Group, kept: jax.Array) -> Sequence[jax.Array]:
    return (kept,) if len(group) == 1 else unbundle(group, kept)

  def routes(self, slots: Group) -> tuple[Route, ...]:
    """Where each slot is kept."""
    own = next((slot for slot in slots if slot.dtype is not None and not slot.exact), None)
    if own is not None and type(self) is not Float32:
      raise ValueError(f'{own.name} has a dtype of its own, {own.dtype.name}: leave that out, or store={self!r}.')
    grouped = self.groups(tuple(slot for slot in slots if not slot.exact))
    routes = [Route(self._keys(group), self, group) for group in grouped]
    return (*routes, *(Route((slot.name,), FLOAT32, (slot,)) for slot in slots if slot.exact))

  def _keys(self, group: Group) -> tuple[str, ...]:
    name = '+'.join(slot.name for slot in group)
    return tuple(f'{name}.{part}' if part else name for part in self.parts(group))


@dataclasses.dataclass(frozen=True)
class Float32(Store):
  """Keeps float32, or wider where a parameter is wider, and a slot that has a dtype of its own in that: the default."""

  def rounds(self, group: Group, kept: Kept) -> bool:
    if kept[0].dtype != group[0].dtype and not is_wide(kept[0]):
      raise self.misfit(group, kept)
    return False


def is_wide(x: jax.Array) -> bool:
  """Whether an array has float32, complex64 or wider: what every store may leave uncoded."""
  return jnp.issubdtype(x.dtype, jnp.inexact) and jnp.finfo(x.dtype).bits >= 32


FLOAT32 = Float32()


@dataclasses.dataclass(frozen=True)
class Coded(Store):
  """A store that keeps some leaves as codes: those that are large enough, real, and not masked.

  The step is taken with what the codes mean. They are steps of the gradients, so derivatives by gradients that arrive
  through them are 0; those by a learning rate, or by parameters that decay, are not affected.

  Attributes:
    min_size: smaller arrays are kept in float32.
    mask: which leaves are coded: a tree of bools, a prefix of one, or a callable of params; None for all.
  """

  min_size: int = 4096
  mask: Any = None

  def __post_init__(self) -> None:
    if not isinstance(self.min_size, int) or self.min_size < 0:
      raise ValueError(f'min_size must be an integer >= 0, got {self.min_size!r}.')
    object.__setattr__(self, 'mask', normal_mask('mask', self.mask))

  @property
  def where(self) -> Any:
    return self.mask

  def bare(self) -> Store:
    return dataclasses.replace(self, mask=None)

  def serves(self, p: Any) -> bool:
    """Whether an array is coded, as far as its shape and dtype decide it."""
    real = not jnp.issubdtype(dtypes.of(p), jnp.complexfloating)
    return real and math.prod(jnp.shape(p)) >= max(self.min_size, 1)

  def code(self, group: Group) -> Any:
    """The dtype of the bits."""
    raise NotImplementedError

  def encode(self, group: Group, values: Sequence[jax.Array], dither: Dither, kept: Kept | None = None) -> Kept:
    """The code of values, which takes the place of `kept`."""
    raise NotImplementedError

  def decode(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    """The values of a code."""
    raise NotImplementedError

  def init(self, group: Group, values: Sequence[jax.Array], p: Any, on: bool) -> Kept:
    known = Route((), self, group).bare()  # a fill may be an array, and is in the values
    encode = lambda near: _first_code(known.store, known.group, [jnp.real(x) for x in near])
    coded = lambda: in_device_memory(encode, values)
    if on and self.serves(p):
      return coded()
    others = coded()[1:] if len(self.parts(group)) > 1 else ()
    return (in_device_memory(self._together, values), *(full_like(x, 0, x.dtype) for x in others))

  def rounds(self, group: Group, kept: Kept) -> bool:
    if kept[0].dtype == self.code(group):
      return True
    if not is_wide(kept[0]):
      raise self.misfit(group, kept)
    return False

  def load(self, group: Group, kept: Kept) -> Sequence[jax.Array]:
    return self.decode(group, kept) if self.rounds(group, kept) else super().load(group, kept)

  def save(self, group: Group, values: Sequence[jax.Array], kept: Kept, dither: Dither) -> Kept:
    if self.rounds(group, kept):
      return self.encode(group, values, dither, kept)
    return super().save(group, values, kept, dither)


@functools.partial(jax.jit, static_argnums=(0, 1))  # compiled once per shape, not once per operation and shape
def _first_code(store: Any, group: Group, values: Sequence[jax.Array]) -> Kept:
  return store.encode(group, values, bits.to_nearest(values[0]))


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class PerSlot(Store):
  """A store for each slot, by name.

  Attributes:
    default: the store of the slots that are not named.
    named: the stores of the others.

  Example:
    >>> import belief_optax as bo, jax.numpy as jnp
    >>> tx = bo.adam(1e-3, store=bo.stores.PerSlot(mu='bfloat16'))
    >>> state = tx.init({'w': jnp.zeros((128, 64))})
    >>> state.slots['mu']['w'].dtype.name, state.slots['nu']['w'].dtype.name
    ('bfloat16', 'float32')
  """

  default: Store
  named: tuple[tuple[str, Store], ...]

  def __init__(self, default: 'StoreName | Store' = 'float32', **named: 'StoreName | Store') -> None:
    object.__setattr__(self, 'default', resolve('default', default))
    object.__setattr__(self, 'named', tuple((name, resolve(name, store)) for name, store in sorted(named.items())))

  def __repr__(self) -> str:
    named = ''.join(f', {name}={store!r}' for name, store in self.named)
    return f'PerSlot({self.default!r}{named})'

  def routes(self, slots: Group) -> tuple[Route, ...]:
    stores = dict(self.named)
    unknown = set(stores) - {slot.name for slot in slots}
    if unknown:
      known = ', '.join(slot.name for slot in slots)
      raise ValueError(f'store names {", ".join(sorted(unknown))}, but the slots are: {known}.')
    shares: dict[Store, list[Slot]] = {}
    for slot in slots:
      shares.setdefault(stores.get(slot.name, self.default), []).append(slot)
    return tuple(route for store, share in shares.items() for route in store.routes(tuple(share)))


STORES: dict[str, Callable[[], Store]] = {'float32': Float32}
REMOVED = {'int4': "'int4' was removed, as its steps were off by 60 % and more: use 'int8'"}
StoreName = Literal['float32', 'params', 'bfloat16', 'packed16', 'int8']
StoreLike = StoreName | Store | Mapping[str, StoreName | Store]


def resolve(name: str, store: Any) -> Store:
  """Returns the store that an argument means, or raises an error that lists the choices.

  Args:
    name: the argument's name, for the error message.
    store: a store, the name of one, or a mapping from slots to either.

  Returns:
    The store.

  Raises:
    ValueError: if a name is unknown.
    TypeError: if it is none of these.

  Example:
    >>> from belief_optax import stores
    >>> stores.resolve('store', {'nu': 'int8'})
    PerSlot(Float32(), nu=Int8(min_size=0, mask=None))
  """
  if isinstance(store, Store):
    return store
  if isinstance(store, Mapping):
    if odd := [key for key in store if not isinstance(key, str)]:
      raise TypeError(f'{name} maps the names of slots to stores, but {odd[0]!r} is no name.')
    return PerSlot(**store)
  if isinstance(store, str) and store in STORES:
    return STORES[store]()
  error = ValueError if isinstance(store, str) else TypeError
  choices = ', '.join(map(repr, STORES))
  hint = f' ({REMOVED[store]})' if isinstance(store, str) and store in REMOVED else ''
  raise error(f'{name} must be one of {choices}, a Store or a mapping from slots to either, got {store!r}{hint}.')
