"""A rule of one array as a machine loop: LLVM's text from the equations that XLA is given.

The mathematics is not written a second time: `jax.make_jaxpr` traces the rule on a block, and each of its equations
becomes an instruction on one element. What has no instruction here (a reduction, a logarithm, complex numbers) raises
`Unserved`, and the rule stays with XLA.
"""

import dataclasses
import itertools
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

BLOCK = 4099  # elements of the block that is traced: a prime, so that no other axis has this size by chance


class Unserved(Exception):
  """A rule for which no loop is generated; the message says why."""


@dataclasses.dataclass(frozen=True)
class Value:
  """One number of one element: LLVM's name of it, or a constant."""

  name: str
  dtype: np.dtype

  @property
  def constant(self) -> bool:
    return not self.name.startswith('%')


class Operand(NamedTuple):
  """An array of the loop.

  Attributes:
    dtype: its dtype.
    trailing: the axes that it has behind those of the parameter; a few numbers of one element.
  """

  dtype: np.dtype
  trailing: tuple[int, ...] = ()

  def block(self, rank: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((*(1,) * (rank - 1), BLOCK, *self.trailing), self.dtype)

  @property
  def width(self) -> int:
    return math.prod(self.trailing)


class Body(NamedTuple):
  """The body of a loop.

  Attributes:
    text: its instructions.
    results: the arrays that it writes.
    indexed: whether it asks for the index of the element, as dithers do.
  """

  text: str
  results: tuple[Operand, ...]
  indexed: bool


BFLOAT16, FLOAT16 = np.dtype(jnp.bfloat16), np.dtype(np.float16)
BOOL, FLOAT32, FLOAT64 = np.dtype(bool), np.dtype(np.float32), np.dtype(np.float64)
# A bfloat16 is its 16 bits: LLVM's own type is converted by calls on most machines.
_TYPES = {BOOL: 'i1', BFLOAT16: 'i16', FLOAT16: 'half', FLOAT32: 'float', FLOAT64: 'double'} | {
  np.dtype(f'{sign}int{bits}'): f'i{bits}' for sign in ('', 'u') for bits in (8, 16, 32, 64)
}


def type_of(dtype: Any) -> str:
  """LLVM's type of a number."""
  try:
    return _TYPES[np.dtype(dtype)]
  except KeyError:
    raise Unserved(f'{np.dtype(dtype).name} numbers are not served') from None


def in_memory(dtype: np.dtype) -> str:
  """LLVM's type of a number in an array."""
  return 'i8' if dtype == BOOL else type_of(dtype)


def is_float(dtype: np.dtype) -> bool:
  """Whether it is a real floating dtype."""
  return jnp.issubdtype(dtype, jnp.floating)


def is_short(dtype: np.dtype) -> bool:
  """Whether arithmetic on it is that of float32, rounded."""
  return dtype in (BFLOAT16, FLOAT16)


def is_signed(dtype: np.dtype) -> bool:
  """Whether it is an integer dtype with a sign."""
  return jnp.issubdtype(dtype, jnp.signedinteger)


def literal(value: Any, dtype: np.dtype) -> str:
  """A constant as LLVM writes it: floats by the bits of the double that they are once they have been rounded."""
  if dtype == BOOL:
    return 'true' if value else 'false'
  if dtype == BFLOAT16:
    return str(int(np.asarray(value, dtype).view(np.uint16)))
  if dtype == FLOAT16:
    return f'0xH{int(np.asarray(value, dtype).view(np.uint16)):04X}'
  if is_float(dtype):
    return f'0x{struct.unpack("<Q", struct.pack("<d", float(np.asarray(value, dtype))))[0]:016X}'
  return str(int(value))


def loop(rule: Callable[..., Any], operands: Sequence[Operand], scalars: Sequence[np.dtype], rank: int = 1) -> Body:
  """The body of a loop over the elements of arrays.

  Args:
    rule: a function of flat arrays and scalars that returns a list of arrays, elementwise.
    operands: the arrays that it reads.
    scalars: the dtypes of the scalars.
    rank: the number of axes of the arrays, at least 1: some rules are elementwise on vectors alone. All but the last
      have size 1, so that the index of an element is that along the last.

  Returns:
    Its text. It reads the arrays from `%x0`, `%x1`, ..., the scalars from `%k0`, ..., and writes to `%y0`, ... at the
    element `%i`.

  Raises:
    Unserved: if an equation has no instruction.
  """
  blocks = [*(x.block(rank) for x in operands), *(jax.ShapeDtypeStruct((), dtype) for dtype in scalars)]
  try:
    with jax.numpy_dtype_promotion('standard'):
      closed = jax.make_jaxpr(rule)(*blocks)
  except Exception as e:  # what is wrong with the rule itself, XLA's path says
    raise Unserved(f'its rule cannot be traced on a block of another shape ({type(e).__name__}: {e})') from e
  writer = _Writer(rank)
  values = [writer.load(f'%x{i}', x) for i, x in enumerate(operands)]
  values += [writer.scalar(f'%k{i}', dtype) for i, dtype in enumerate(scalars)]
  results = writer.run(closed.jaxpr, closed.consts, values)
  written = []
  avals: Any = closed.out_avals
  for j, (value, aval) in enumerate(zip(results, avals, strict=True)):
    written.append(Operand(np.dtype(aval.dtype), aval.shape[rank:]))
    if aval.shape[:rank] != written[-1].block(rank).shape[:rank]:
      raise Unserved(f'a result of shape {aval.shape} is not elementwise')
    writer.store(f'%y{j}', np.broadcast_to(value, _small(aval.shape)), written[-1])
  return Body('\n'.join(f'  {line}' for line in writer.lines), tuple(written), writer.indexed)


def _small(shape: Sequence[int]) -> tuple[int, ...]:
  """A shape in which the block is one element."""
  return tuple(1 if n == BLOCK else n for n in shape)


def _element(value: Value) -> np.ndarray:
  """A number as an array of no axes."""
  array = np.empty((), object)
  array[()] = value
  return array


ACCESS = '!llvm.access.group !0'  # of a loop whose elements do not meet: LLVM need not ask whether pointers are equal


class _Writer:
  """Writes instructions. An array of the rule is an array of `Value`, with one element along the block."""

  def __init__(self, rank: int) -> None:
    self.lines: list[str] = []
    self.indexed = False
    self._rank = rank
    self._names = itertools.count()

  def emit(self, dtype: Any, instruction: str) -> Value:
    name = f'%v{next(self._names)}'
    self.lines.append(f'{name} = {instruction}')
    return Value(name, np.dtype(dtype))

  # Arrays and scalars.

  def _place(self, pointer: str, x: Operand, k: int) -> str:
    index = '%i'
    if x.width != 1:
      index = self.emit('int64', f'mul nuw nsw i64 %i, {x.width}').name
      index = self.emit('int64', f'add nuw nsw i64 {index}, {k}').name
    return self.emit('int64', f'getelementptr inbounds {in_memory(x.dtype)}, ptr {pointer}, i64 {index}').name

  def load(self, pointer: str, x: Operand) -> np.ndarray:
    out = np.empty(x.width, object)
    for k in range(x.width):
      place = self._place(pointer, x, k)
      value = self.emit(x.dtype, f'load {in_memory(x.dtype)}, ptr {place}, align {x.dtype.itemsize}, {ACCESS}')
      out[k] = self._as_bool(value) if x.dtype == BOOL else value
    return out.reshape(*(1,) * self._rank, *x.trailing)

  def scalar(self, name: str, dtype: np.dtype) -> np.ndarray:
    return _element(self._as_bool(Value(name, BOOL)) if dtype == BOOL else Value(name, dtype))

  def _as_bool(self, value: Value) -> Value:
    return self.emit(BOOL, f'icmp ne i8 {value.name}, 0')

  def store(self, pointer: str, values: np.ndarray, x: Operand) -> None:
    for k, value in enumerate(values.flat):
      if x.dtype == BOOL:
        value = self.emit(BOOL, f'zext i1 {value.name} to i8')
      place = self._place(pointer, x, k)
      self.lines.append(f'store {in_memory(x.dtype)} {value.name}, ptr {place}, align {x.dtype.itemsize}, {ACCESS}')

  # Equations.

  def run(self, jaxpr: Any, consts: Sequence[Any], args: Sequence[np.ndarray]) -> list[np.ndarray]:
    env: dict[Any, np.ndarray] = dict(zip(jaxpr.invars, args, strict=True))
    env |= {v: self._constant(c, np.dtype(v.aval.dtype)) for v, c in zip(jaxpr.constvars, consts, strict=True)}

    def read(atom: Any) -> np.ndarray:
      if isinstance(atom, jax.extend.core.Literal):
        aval: Any = atom.aval
        return self._constant(atom.val, np.dtype(aval.dtype))
      return env[atom]

    for equation in jaxpr.eqns:
      outs = self._equation(equation, [read(atom) for atom in equation.invars])
      env.update(zip(equation.outvars, outs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]

  def _constant(self, value: Any, dtype: np.dtype) -> np.ndarray:
    value = np.asarray(value)
    if value.ndim:
      raise Unserved(f'it holds an array of shape {value.shape}')
    type_of(dtype)
    return _element(Value(literal(value, dtype), dtype))

  def _equation(self, equation: Any, ins: list[np.ndarray]) -> Sequence[np.ndarray]:
    name, params = equation.primitive.name, equation.params
    if name in _CALLS:
      inner = params.get('jaxpr') or params['call_jaxpr']
      return self.run(inner.jaxpr, inner.consts, ins)
    if name in _SAME:
      return ins
    if name == 'iota':
      return [self._iota(params)]
    if name == 'unstack':
      axis = params['axis']
      return [x.squeeze(axis) for x in np.split(ins[0], ins[0].shape[axis], axis)]
    if name in _STRUCTURE:
      return [_moved(equation, ins)]
    if name not in _SCALAR:
      raise Unserved(f'{name} has no instruction here')
    dtype = np.dtype(equation.outvars[0].aval.dtype)
    type_of(dtype)
    constants = [params['y']] if name == 'integer_pow' else []
    out = np.empty(np.broadcast_shapes(*(x.shape for x in ins)), object)
    for place in np.ndindex(out.shape):
      numbers = [np.broadcast_to(x, out.shape)[place] for x in ins]
      out[place] = _SCALAR[name](self, dtype, *numbers, *constants)
    return [out]

  def _iota(self, params: Mapping[str, Any]) -> np.ndarray:
    shape, axis, dtype = params['shape'], params['dimension'], np.dtype(params['dtype'])
    if shape[axis] == BLOCK:
      self.indexed = True
      i = Value('%i', np.dtype('int64'))
      return np.full(_small(shape), _element(self.convert(dtype, i)))
    column = np.empty(shape[axis], object)
    column[:] = [Value(literal(k, dtype), dtype) for k in range(shape[axis])]
    return np.broadcast_to(np.expand_dims(column, tuple(a for a in range(len(shape)) if a != axis)), _small(shape))

  # Instructions.

  def wide(self, x: Value) -> Value:
    """A number of 16 bits as float32, in which it is computed; others as they are."""
    return self.convert(FLOAT32, x) if is_short(x.dtype) else x

  def binary(self, dtype: np.dtype, instruction: str, a: Value, b: Value) -> Value:
    return self.emit(dtype, f'{instruction} {type_of(dtype)} {a.name}, {b.name}')

  def call(self, dtype: np.dtype, function: str, *xs: Value) -> Value:
    kind = type_of(dtype)
    suffix = {'half': 'f16', 'float': 'f32', 'double': 'f64'}.get(kind, kind)
    return self.emit(dtype, f'call {kind} @{function}.{suffix}({", ".join(f"{kind} {x.name}" for x in xs)})')

  def compare(self, how: str, a: Value, b: Value) -> Value:
    return self.emit(BOOL, f'{how} {type_of(a.dtype)} {a.name}, {b.name}')

  def select(self, p: Value, a: Value, b: Value) -> Value:
    kind = type_of(a.dtype)
    return self.emit(a.dtype, f'select i1 {p.name}, {kind} {a.name}, {kind} {b.name}')

  def cast(self, how: str, x: Value, dtype: Any) -> Value:
    return self.emit(dtype, f'{how} {type_of(x.dtype)} {x.name} to {type_of(dtype)}')

  def convert(self, dtype: np.dtype, x: Value) -> Value:
    """The number in another dtype, as XLA converts it."""
    old, size = x.dtype, dtype.itemsize
    if old == dtype:
      return x
    if is_short(old) and dtype != FLOAT32:
      return self.convert(dtype, self.wide(x))
    if is_short(dtype) and old != FLOAT32:
      return self.convert(dtype, self.convert(FLOAT32, x))
    if old == BFLOAT16:
      word = self.emit('uint32', f'zext i16 {x.name} to i32')
      return self.cast('bitcast', self.emit('uint32', f'shl i32 {word.name}, 16'), FLOAT32)
    if dtype == BFLOAT16:
      return self._to_bfloat16(x)
    if is_float(old) and is_float(dtype):
      return self.cast('fpext' if size > old.itemsize else 'fptrunc', x, dtype)
    if dtype == BOOL:
      zero = Value(literal(0, old), old)
      return self.compare('fcmp une' if is_float(old) else 'icmp ne', x, zero)
    if is_float(old):  # what does not fit is the nearest that does, and NaN is 0
      how = 'fptosi' if is_signed(dtype) else 'fptoui'
      source = 'f64' if old == FLOAT64 else 'f32'
      return self.emit(
        dtype, f'call {type_of(dtype)} @llvm.{how}.sat.{type_of(dtype)}.{source}({type_of(old)} {x.name})'
      )
    if is_float(dtype):
      return self.cast('sitofp' if is_signed(old) else 'uitofp', x, dtype)
    bits = 0 if old == BOOL else old.itemsize
    if bits == size:
      return dataclasses.replace(x, dtype=dtype)
    return self.cast('trunc' if bits > size else 'sext' if is_signed(old) else 'zext', x, dtype)

  def _to_bfloat16(self, x: Value) -> Value:
    """To nearest, a tie to even; a NaN stays one."""
    word = self.cast('bitcast', x, 'uint32')
    high = self.emit('uint32', f'lshr i32 {word.name}, 16')
    odd = self.emit('uint32', f'and i32 {high.name}, 1')
    half = self.emit('uint32', f'add i32 {odd.name}, 32767')
    rounded = self.emit('uint32', f'add i32 {word.name}, {half.name}')
    rounded = self.emit('uint32', f'lshr i32 {rounded.name}, 16')
    nan = self.emit('uint32', f'or i32 {high.name}, 64')
    both = self.select(self.compare('fcmp uno', x, x), nan, rounded)
    return self.emit(BFLOAT16, f'trunc i32 {both.name} to i16')


# An equation on scalars: (writer, dtype of the result, operands) -> result.
_Scalar = Callable[..., Value]


def _arithmetic(floating: str, integer: str) -> _Scalar:
  neutral = {'fadd': 0, 'fsub': 0, 'fmul': 1, 'fdiv': 1}[floating]  # XLA leaves these out too, so FMAs are the same

  def emit(w: _Writer, dtype: np.dtype, a: Value, b: Value) -> Value:
    if b.name == literal(neutral, dtype):
      return a
    if floating in ('fadd', 'fmul') and a.name == literal(neutral, dtype):
      return b
    if not is_float(dtype):
      if integer == 'mul' and '0' in (a.name, b.name):
        return Value('0', dtype)
      if not integer:
        raise Unserved(f'{floating} of {dtype.name} has no instruction here')
      return w.binary(dtype, integer, a, b)
    a, b = w.wide(a), w.wide(b)
    return w.convert(dtype, w.binary(a.dtype, f'{floating} contract', a, b))

  return emit


def _bitwise(instruction: str) -> _Scalar:
  return lambda w, dtype, a, b: w.binary(dtype, instruction, a, b)


def _shift(instruction: str) -> _Scalar:
  def emit(w: _Writer, dtype: np.dtype, a: Value, b: Value) -> Value:
    bits = 8 * dtype.itemsize
    if b.constant and 0 <= int(b.name) < bits:
      return w.binary(dtype, instruction, a, b)
    inside = w.compare('icmp ult', b, Value(str(bits), dtype))  # a longer shift leaves nothing but the sign
    safe = w.select(inside, b, Value(str(bits - 1) if instruction == 'ashr' else '0', dtype))
    shifted = w.binary(dtype, instruction, a, safe)
    return shifted if instruction == 'ashr' else w.select(inside, shifted, Value('0', dtype))

  return emit


def _compare(floating: str, integer: str) -> _Scalar:
  def emit(w: _Writer, _: np.dtype, a: Value, b: Value) -> Value:
    a, b = w.wide(a), w.wide(b)
    if is_float(a.dtype):
      return w.compare(f'fcmp {floating}', a, b)
    sign = '' if integer in ('eq', 'ne') else 's' if is_signed(a.dtype) else 'u'
    return w.compare(f'icmp {sign}{integer}', a, b)

  return emit


def _extremum(order: str) -> _Scalar:
  """The larger or smaller of two; a NaN in either stays. The order of operands is that of one x86 instruction."""

  def emit(w: _Writer, dtype: np.dtype, a: Value, b: Value) -> Value:
    if not is_float(dtype):
      if dtype == BOOL:
        return w.binary(dtype, 'or' if order == 'gt' else 'and', a, b)
      sign = 's' if is_signed(dtype) else 'u'
      return w.call(dtype, f'llvm.{sign}{"max" if order == "gt" else "min"}', a, b)
    a, b = w.wide(a), w.wide(b)
    if b.constant:
      a, b = b, a  # where the first is a number, the second is the only NaN
    first = w.compare(f'fcmp o{order}', a, b)
    if not a.constant:
      first = w.binary(BOOL, 'or', first, w.compare('fcmp uno', a, a))
    return w.convert(dtype, w.select(first, a, b))

  return emit


def _function(name: str) -> _Scalar:
  def emit(w: _Writer, dtype: np.dtype, x: Value) -> Value:
    if not is_float(dtype):
      raise Unserved(f'{name} of {dtype.name} has no instruction here')
    x = w.wide(x)
    return w.convert(dtype, w.call(x.dtype, f'llvm.{name}', x))

  return emit


def _negative(w: _Writer, dtype: np.dtype, x: Value) -> Value:
  if not is_float(dtype):
    return w.binary(dtype, 'sub', Value('0', dtype), x)
  x = w.wide(x)
  return w.convert(dtype, w.emit(x.dtype, f'fneg contract {type_of(x.dtype)} {x.name}'))


def _absolute(w: _Writer, dtype: np.dtype, x: Value) -> Value:
  if is_float(dtype):
    return _function('fabs')(w, dtype, x)
  if not is_signed(dtype):
    return x
  return _extremum('gt')(w, dtype, x, w.binary(dtype, 'sub', Value('0', dtype), x))


def _power(w: _Writer, dtype: np.dtype, x: Value, y: int) -> Value:
  """x^y by squaring, as XLA has it."""
  times, out = _SCALAR['mul'], None
  if y < 1:
    raise Unserved(f'integer_pow by {y} has no instruction here')
  while y:
    if y & 1:
      out = x if out is None else times(w, dtype, out, x)
    y >>= 1
    if y:
      x = times(w, dtype, x, x)
  assert out is not None
  return out


def _sign(w: _Writer, dtype: np.dtype, x: Value) -> Value:
  """1, -1, or what x is: 0 of its sign, or NaN."""
  zero, one, less = (Value(literal(k, x.dtype), x.dtype) for k in (0, 1, -1))
  if is_short(dtype) or not (is_float(dtype) or is_signed(dtype)):
    raise Unserved(f'sign of {dtype.name} has no instruction here')
  greater, smaller = (_compare(f'o{how}', how)(w, BOOL, x, zero) for how in ('gt', 'lt'))
  rest = w.binary(dtype, 'fadd', x, x) if is_float(dtype) else zero  # of what is flushed to 0 too
  return w.select(greater, one, w.select(smaller, less, rest))


def _is_finite(w: _Writer, _: np.dtype, x: Value) -> Value:
  x = w.wide(x)
  size = w.call(x.dtype, 'llvm.fabs', x)
  return w.compare('fcmp olt', size, Value(literal(np.inf, x.dtype), x.dtype))


def _reciprocal_root(w: _Writer, dtype: np.dtype, x: Value) -> Value:
  root = _function('sqrt')(w, dtype, x)
  return _SCALAR['div'](w, dtype, Value(literal(1, dtype), dtype), root)


def _clamp(w: _Writer, dtype: np.dtype, low: Value, x: Value, high: Value) -> Value:
  return _SCALAR['min'](w, dtype, _SCALAR['max'](w, dtype, low, x), high)


def _bitcast(w: _Writer, dtype: np.dtype, x: Value) -> Value:
  if x.dtype.itemsize != dtype.itemsize or BOOL in (x.dtype, dtype):
    raise Unserved(f'bitcast from {x.dtype.name} to {dtype.name} has no instruction here')
  if type_of(x.dtype) == type_of(dtype):
    return dataclasses.replace(x, dtype=dtype)
  return w.cast('bitcast', x, dtype)


def _select(w: _Writer, _: np.dtype, p: Value, *cases: Value) -> Value:
  if p.dtype != BOOL:
    raise Unserved('a choice among more than two has no instruction here')
  return w.select(p, cases[1], cases[0])


_SCALAR: dict[str, _Scalar] = {
  'add': _arithmetic('fadd', 'add'),
  'add_any': _arithmetic('fadd', 'add'),
  'sub': _arithmetic('fsub', 'sub'),
  'mul': _arithmetic('fmul', 'mul'),
  'div': _arithmetic('fdiv', ''),
  'square': lambda w, dtype, x: _SCALAR['mul'](w, dtype, x, x),
  'integer_pow': _power,
  'neg': _negative,
  'abs': _absolute,
  'sign': _sign,
  'sqrt': _function('sqrt'),
  'rsqrt': _reciprocal_root,
  'floor': _function('floor'),
  'ceil': _function('ceil'),
  'max': _extremum('gt'),
  'min': _extremum('lt'),
  'clamp': _clamp,
  'is_finite': _is_finite,
  'and': _bitwise('and'),
  'or': _bitwise('or'),
  'xor': _bitwise('xor'),
  'not': lambda w, dtype, x: w.binary(dtype, 'xor', x, Value('true' if dtype == BOOL else '-1', dtype)),
  'shift_left': _shift('shl'),
  'shift_right_logical': _shift('lshr'),
  'shift_right_arithmetic': _shift('ashr'),
  'eq': _compare('oeq', 'eq'),
  'ne': _compare('une', 'ne'),
  'lt': _compare('olt', 'lt'),
  'le': _compare('ole', 'le'),
  'gt': _compare('ogt', 'gt'),
  'ge': _compare('oge', 'ge'),
  'select_n': _select,
  'convert_element_type': lambda w, dtype, x: w.convert(dtype, x),
  'bitcast_convert_type': _bitcast,
}

_CALLS = ('jit', 'pjit', 'closed_call', 'core_call', 'custom_jvp_call', 'custom_vjp_call')
# What hands its operands on. The first keeps XLA:CPU from computing twice, which a loop never does.
_SAME = ('cpu_barrier', 'optimization_barrier', 'copy', 'copy_p', 'stop_gradient', 'pvary', 'pcast')


def _broadcast(params: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
  shape, axes = _small(params['shape']), params['broadcast_dimensions']
  new = [1] * len(shape)
  for axis, n in zip(axes, x.shape, strict=True):
    new[axis] = n
  return np.broadcast_to(x.reshape(new), shape)


def _slice(params: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
  strides = params['strides'] or (1,) * x.ndim
  limits = _small(params['limit_indices'])
  return x[tuple(map(slice, params['start_indices'], limits, strides))]


def _moved(equation: Any, ins: Sequence[np.ndarray]) -> np.ndarray:
  """What an equation makes of arrays whose numbers it only moves; raises where one came to another element."""
  name, old, new = equation.primitive.name, equation.invars[0].aval.shape, equation.outvars[0].aval.shape
  try:
    out = _STRUCTURE[name](equation.params, *ins)
  except ValueError:
    out = None
  behind = lambda shape: math.prod(shape[shape.index(BLOCK) + 1 :]) if BLOCK in shape else 0
  if out is None or out.shape != _small(new) or (name == 'reshape' and behind(old) != behind(new)):
    raise Unserved(f'{name} from {old} to {new} mixes elements')
  return out


# What moves the numbers of one element. Arrays have one element along the block, so that NumPy does it.
_STRUCTURE: dict[str, Callable[..., np.ndarray]] = {
  'broadcast_in_dim': _broadcast,
  'reshape': lambda params, x: x.reshape(_small(params['new_sizes'])),
  'squeeze': lambda params, x: np.squeeze(x, tuple(params['dimensions'])),
  'expand_dims': lambda params, x: np.expand_dims(x, tuple(params['dimensions'])),
  'transpose': lambda params, x: np.transpose(x, params['permutation']),
  'slice': _slice,
  'concatenate': lambda params, *xs: np.concatenate(xs, params['dimension']),
  'stack': lambda params, *xs: np.stack(xs, params['axis']),
}


def intrinsics(text: str) -> Iterable[str]:
  """The declarations of the functions that a text calls."""
  seen: dict[str, None] = {}
  for line in text.splitlines():
    if ' = call ' in line:
      kind, rest = line.split(' = call ', 1)[1].split(' ', 1)
      name, args = rest.split('(', 1)
      types = ', '.join(arg.split(' ')[0] for arg in args.rstrip(')').split(', '))
      seen[f'declare {kind} {name}({types})'] = None
  return seen
