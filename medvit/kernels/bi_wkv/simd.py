"""Numba type ``Lanes``: a vector of eight float64 in registers, with +, -, *, / and a few functions.

Numba turns loops over arrays into vector instructions only where it can prove that no two arrays overlap, which fails
for a recurrence with several sums. Here each operation is one vector instruction by construction; where the registers
of the machine are shorter (AVX2, NEON), LLVM splits it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model

from medvit.kernels.bi_wkv.exponential import LIMIT, LN2_HIGH, LN2_LOW, LOG2E, ROUND, taylor

__all__ = ["LANES", "exp", "get", "greatest", "largest", "put", "smallest", "splat"]

LANES = 8

_FLAGS = ("contract", "nsz")
"""LLVM fast-math flags. They allow fused multiply-add, but not the assumption that there is no NaN, so NaN propagates."""


class _LanesType(types.Type):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__(name="Lanes")


_LANES_TYPE = _LanesType()
_DOUBLE, _WORD = ir.DoubleType(), ir.IntType(64)
_VECTOR, _WORDS = ir.VectorType(_DOUBLE, LANES), ir.VectorType(_WORD, LANES)


@register_model(_LanesType)
class _LanesModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _broadcast(builder: Any, value: Any) -> Any:
    vector = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    return builder.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES))


def _binary(build: Callable[[Any, Any, Any], Any]) -> Any:
    """Make a numba operation of two values, of which one may be a scalar."""

    @intrinsic  # type: ignore[untyped-decorator]
    def operation(typingctx: Any, a: Any, b: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            wide = []
            for value, kind in zip(args, signature.args, strict=True):
                wide.append(value if kind == _LANES_TYPE else _broadcast(builder, value))
            return build(builder, *wide)

        kinds = [t if t == _LANES_TYPE else types.float64 for t in (a, b)]
        return _LANES_TYPE(*kinds), codegen

    return operation


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def _smaller(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.fcmp_ordered("<", a, b), a, b)


_add = _binary(lambda builder, a, b: builder.fadd(a, b, flags=_FLAGS))
_subtract = _binary(lambda builder, a, b: builder.fsub(a, b, flags=_FLAGS))
_multiply = _binary(lambda builder, a, b: builder.fmul(a, b, flags=_FLAGS))
_divide = _binary(lambda builder, a, b: builder.fdiv(a, b, flags=_FLAGS))
largest = _binary(_larger)
smallest = _binary(_smaller)


def _one_is_lanes(a: Any, b: Any) -> bool:
    return _LANES_TYPE in (a, b) and all(t == _LANES_TYPE or isinstance(t, types.Number) for t in (a, b))


def _spell(sign: Any, operation: Any) -> None:
    # numba requires the two signatures to be identical, annotations included
    @overload(sign)
    def _(a, b):  # type: ignore[no-untyped-def]
        return (lambda a, b: operation(a, b)) if _one_is_lanes(a, b) else None


_spell(operator.add, _add)
_spell(operator.sub, _subtract)
_spell(operator.mul, _multiply)
_spell(operator.truediv, _divide)


@intrinsic  # type: ignore[untyped-decorator]
def splat(typingctx: Any, value: Any) -> Any:
    """Broadcast one number to all lanes."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _broadcast(builder, args[0])

    return _LANES_TYPE(types.float64), codegen


def _address(context: Any, builder: Any, kind: Any, value: Any, indices: list[Any], element: Any) -> Any:
    """Return a pointer to eight consecutive numbers; the caller must ensure that they are contiguous and within the
    array."""
    array = context.make_array(kind)(context, builder, value)
    place = builder.ptrtoint(array.data, _WORD)
    for index, stride in zip(indices, cgutils.unpack_tuple(builder, array.strides), strict=True):
        place = builder.add(place, builder.mul(index, stride))
    return builder.inttoptr(place, ir.VectorType(element, LANES).as_pointer())


@intrinsic  # type: ignore[untyped-decorator]
def get(typingctx: Any, array: Any, at: Any) -> Any:
    """Read lanes from ``array[at]`` (one index per axis) and the seven numbers after it; bounds are not checked."""
    element = ir.FloatType() if array.dtype == types.float32 else _DOUBLE

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        indices = cgutils.unpack_tuple(builder, args[1])
        where = _address(context, builder, signature.args[0], args[0], indices, element)
        loaded = builder.load(where, align=element.get_abi_size(context.target_data))
        return builder.fpext(loaded, _VECTOR) if element != _DOUBLE else loaded

    return _LANES_TYPE(array, types.UniTuple(types.int64, array.ndim)), codegen


@intrinsic  # type: ignore[untyped-decorator]
def put(typingctx: Any, array: Any, at: Any, value: Any) -> Any:
    """Write lanes to ``array[at]`` and the seven numbers after it; bounds are not checked."""
    element = ir.FloatType() if array.dtype == types.float32 else _DOUBLE

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        indices = cgutils.unpack_tuple(builder, args[1])
        where = _address(context, builder, signature.args[0], args[0], indices, element)
        lanes = args[2] if element == _DOUBLE else builder.fptrunc(args[2], ir.VectorType(element, LANES))
        builder.store(lanes, where, align=element.get_abi_size(context.target_data))
        return context.get_dummy_value()

    return types.void(array, types.UniTuple(types.int64, array.ndim), _LANES_TYPE), codegen


@intrinsic  # type: ignore[untyped-decorator]
def greatest(typingctx: Any, value: Any) -> Any:
    """Return the largest of the eight numbers."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        top = builder.extract_element(args[0], ir.Constant(ir.IntType(32), 0))
        for lane in range(1, LANES):
            top = _larger(builder, top, builder.extract_element(args[0], ir.Constant(ir.IntType(32), lane)))
        return top

    return types.float64(_LANES_TYPE), codegen


@intrinsic  # type: ignore[untyped-decorator]
def _powers_of_two(typingctx: Any, shifted: Any) -> Any:
    """Compute 2^n from the low bits of n + ``ROUND``, by moving n to the exponent bits without a conversion."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], _WORDS)
        bits = builder.add(bits, ir.Constant(_WORDS, [1023] * LANES))
        return builder.bitcast(builder.shl(bits, ir.Constant(_WORDS, [52] * LANES)), _VECTOR)

    return _LANES_TYPE(_LANES_TYPE), codegen


@njit(inline="always")
def exp(x):  # type: ignore[no-untyped-def]
    """Compute exp of each lane to a relative error of 4e-16; x is clipped to ±708.

    The result is an integer power of two times the Taylor series to r^12 on |r| <= ln 2 / 2, whose remainder is below
    2e-16.
    """
    x = smallest(largest(x, -LIMIT), LIMIT)
    shifted = x * LOG2E + ROUND
    whole = shifted - ROUND
    r = (x - whole * LN2_HIGH) - whole * LN2_LOW
    p = r * (1 / 479001600) + 1 / 39916800
    return taylor(p, r) * _powers_of_two(shifted)
