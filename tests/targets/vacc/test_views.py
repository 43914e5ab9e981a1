"""Views against NumPy arrays: whatever is done to them, they read the same elements."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xamc.targets.vacc.views import View


def _read(view: View, memory: np.ndarray) -> np.ndarray:
    """The value that a kernel would read."""
    strides = view.strides()
    index = np.full(view.layout.shape, strides.offset, np.int64)
    for axis, step in enumerate(strides.steps):
        shape = [1] * index.ndim
        shape[axis] = view.layout.shape[axis]
        index += np.arange(view.layout.shape[axis]).reshape(shape) * step
    return memory[index].reshape(view.shape)


def _factors(data: st.DataObject, total: int) -> tuple[int, ...]:
    """A shape of `total` elements."""
    shape = []
    while total > 1:
        factor = data.draw(st.sampled_from([f for f in range(1, total + 1) if total % f == 0]))
        shape.append(factor)
        total //= factor
    return tuple(shape)


@given(st.data())
def test_views_read_what_numpy_reads(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    memory = np.arange(int(np.prod(shape)))
    array, view = memory.reshape(shape), View.of(None, "int64", shape)
    for _ in range(data.draw(st.integers(0, 5))):
        action = data.draw(st.sampled_from(["transpose", "slice", "expand", "reshape", "repeat"]))
        if action == "transpose":
            order = data.draw(st.permutations(range(array.ndim)))
            array, view = array.transpose(order), view.transpose(order)
        elif action == "reshape":
            wanted = _factors(data, array.size)
            changed = view.reshape(wanted)
            if changed is not None:
                array, view = array.reshape(wanted), changed
        elif action == "repeat" and array.ndim > 1:
            # the heads of grouped queries: a dimension of repetitions is merged with the one before it
            if view.is_merged:
                continue
            wide = np.broadcast_to(array[:, None], (array.shape[0], 2, *array.shape[1:]))
            layout = np.broadcast_to(view.layout[:, None], wide.shape)
            merged = view.with_layout(layout).reshape((2 * array.shape[0], *array.shape[1:]))
            assert merged is not None
            array, view = wide.reshape(merged.shape), merged
        elif not view.is_merged and array.ndim:
            axis = data.draw(st.integers(0, array.ndim - 1))
            index: list[Any] = [slice(None)] * array.ndim
            if action == "slice":
                start = data.draw(st.integers(0, array.shape[axis] - 1))
                index[axis] = slice(start, data.draw(st.integers(start + 1, array.shape[axis])))
                array, view = array[tuple(index)], view.with_layout(view.layout[tuple(index)])
            else:
                index.insert(axis, None)
                shape = list(array[tuple(index)].shape)
                shape[axis] = 3
                array = np.broadcast_to(array[tuple(index)], shape)
                view = view.with_layout(np.broadcast_to(view.layout[tuple(index)], shape))
        assert view.shape == array.shape
    np.testing.assert_array_equal(_read(view, memory), array)
    if view.is_contiguous:
        np.testing.assert_array_equal(array.reshape(-1), memory)


def test_repeated_heads_stay_where_they_are() -> None:
    """Unsqueeze, Expand, Reshape and Transpose of eager attention move nothing."""
    keys = View.of(None, "float16", (1, 2, 5, 4))
    wide = keys.with_layout(np.broadcast_to(keys.layout[:, :, None], (1, 2, 3, 5, 4)))
    heads = wide.reshape((1, 6, 5, 4))
    assert heads is not None and heads.is_merged and heads.shape == (1, 6, 5, 4)
    turned = heads.transpose((0, 1, 3, 2))
    assert turned.shape == (1, 6, 4, 5) and turned.strides().steps[1:] == (20, 0, 1, 4)
