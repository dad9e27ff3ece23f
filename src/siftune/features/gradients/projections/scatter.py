"""The compiled loop of the sparse projections on the CPU: numba, eight rows side by side in one vector register."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from siftune._common.compiled import compiled

LANES = 8  # rows that are added at once
_TILE = 256  # coordinates turned from rows to lanes at a time; they stay in the first-level cache


@intrinsic
def _add_lanes(typing: Any, target: Any, at: Any, source: Any, start: Any) -> Any:
    """``target[at : at + LANES] += source[start : start + LANES]`` for flat float32 arrays.

    Written out because numba leaves the eight additions of a loop as eight scalar ones.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector = ir.VectorType(ir.FloatType(), LANES)

        def place(array: Any, kind: Any, index: Any) -> Any:
            data = context.make_array(kind)(context, builder, array).data
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        into = place(arguments[0], signature.args[0], arguments[1])
        out_of = place(arguments[2], signature.args[2], arguments[3])
        total = builder.fadd(builder.load(into, align=4), builder.load(out_of, align=4))
        builder.store(total, into, align=4)
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), generate


@intrinsic
def _turn_lanes(typing: Any, target: Any, at: Any, values: Any, start: Any, stride: Any, count: Any, sign: Any) -> Any:
    """``target[at + lane] = sign * values[start + lane * stride]`` for ``count`` lanes; the others repeat lane 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        vector, index = ir.VectorType(ir.FloatType(), LANES), ir.IntType(64)
        source = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        taken = ir.Constant(vector, ir.Undefined)
        for lane in range(LANES):
            used = builder.icmp_signed("<", ir.Constant(index, lane), arguments[5])
            away = builder.mul(builder.select(used, ir.Constant(index, lane), ir.Constant(index, 0)), arguments[4])
            value = builder.load(builder.gep(source, [builder.add(arguments[3], away)]))
            taken = builder.insert_element(taken, builder.fmul(value, arguments[6]), ir.Constant(ir.IntType(32), lane))
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store(taken, builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer()), align=4)
        return context.get_dummy_value()

    whole = types.intp
    return types.void(target, whole, values, whole, whole, whole, types.float32), generate


@compiled(nogil=True, boundscheck=False, error_model="numpy")
def _scatter(lanes: Any, dim: int, values: Any, signs: Any, pool: Any, which: Any, rotation: Any) -> None:
    rows, n = values.shape
    flat = values.reshape(-1)
    copies, width = which.shape[0], pool.shape[1]
    tile = np.zeros(_TILE * LANES, np.float32)
    for group in range((rows + LANES - 1) // LANES):
        first = group * LANES
        count = min(LANES, rows - first)
        for start in range(0, n, _TILE):
            length = min(_TILE, n - start)
            for t in range(length):
                _turn_lanes(tile, t * LANES, flat, first * n + start + t, n, count, np.float32(signs[start + t]))  # type: ignore[call-arg]  # numba passes the first one
            for copy in range(copies):
                base = group * dim + copy * width
                at = 0
                while at < length:
                    turn = (start + at) // width
                    place = start + at - turn * width
                    run = min(length - at, width - place)
                    order = pool[which[copy, turn]]
                    shift = rotation[copy, turn]
                    for s in range(run):
                        bucket = order[place + s] + shift
                        if bucket >= width:
                            bucket -= width
                        _add_lanes(lanes, (base + bucket) * LANES, tile, (at + s) * LANES)  # type: ignore[call-arg]
                    at += run


def scatter(lanes: np.ndarray, values: np.ndarray, signs: np.ndarray, pool: np.ndarray, which: np.ndarray,
            rotation: np.ndarray) -> None:
    """``lanes[r // 8, copy * width + bucket(copy, i), r % 8] += signs[i] * values[r, i]`` for every i, in their order.

    Additions happen coordinate after coordinate whatever the rows beside them are, so that a row's sums have the same
    bits in every batch.

    Args:
        lanes: float32 [groups, dim, 8], changed in place.
        values: float32 [rows, n].
        signs: int8 [n].
        pool: int32 [permutations, width]: the bucket of each place of a round, before rotation.
        which, rotation: int32 [copies, rounds].
    """
    _scatter(lanes.reshape(-1), lanes.shape[1], values, signs, pool, which, rotation)
