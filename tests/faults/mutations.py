"""Everything that can happen to a file: what disks, editors, copies and other programs do to one.

A mutation is a function of (path, other files of the same kind, random numbers) that damages the file at that path and
says whether it could. :data:`OF_FILES` apply to any file, :data:`OF_JSON`, :data:`OF_TENSORS` and :data:`OF_ARRAYS` to
files of those formats besides; :func:`mutations_of` names all that apply to one.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Mutation = Callable[[Path, Sequence[Path], random.Random], bool]


def _flip(path: Path, at: int, bit: int) -> bool:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << bit
    path.write_bytes(content)
    return True


def flip_a_bit(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    return _flip(path, chance.randrange(path.stat().st_size), chance.randrange(8))


def flip_the_last_byte(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    return _flip(path, path.stat().st_size - 1, 0)


def flip_a_bit_and_keep_the_time(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    import os

    before = path.stat()
    flip_a_bit(path, others, chance)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return True


def cut_the_end(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    path.write_bytes(path.read_bytes()[: -chance.randint(2, 20)])  # a line feed alone says nothing
    return True


def empty(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    path.write_bytes(b"")
    return True


def append(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    path.write_bytes(path.read_bytes() + b"\0more")
    return True


def zeros(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    path.write_bytes(bytes(path.stat().st_size))
    return True


def delete(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    path.unlink()
    return True


def link_to_another(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    if not others:
        return False
    path.unlink()
    path.symlink_to(chance.choice(list(others)))
    return True


def link_to_nothing(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    path.unlink()
    path.symlink_to(path.parent / "nowhere")
    return True


def a_folder_in_its_place(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    path.unlink()
    (path / "inside").mkdir(parents=True)
    return True


def copy_another_over_it(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    different = [other for other in others if other.read_bytes() != path.read_bytes()]
    if not different:
        return False
    shutil.copyfile(chance.choice(different), path)
    return True


OF_FILES: tuple[Mutation, ...] = (
    flip_a_bit, flip_the_last_byte, flip_a_bit_and_keep_the_time, cut_the_end, empty, append, zeros, delete,
    link_to_another, link_to_nothing, a_folder_in_its_place, copy_another_over_it)


def _numbers(value: Any) -> list[tuple[Any, Any]]:
    """(container, key) of every number inside a JSON value."""
    found: list[tuple[Any, Any]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        if isinstance(item, int | float) and not isinstance(item, bool):
            found.append((value, key))
        else:
            found += _numbers(item)
    return found


def edit_a_number(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    value = json.loads(path.read_bytes())
    places = _numbers(value)
    if not places:
        return False
    container, key = chance.choice(places)
    container[key] = container[key] + 1
    path.write_text(json.dumps(value))
    return True


def another_key(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    value = json.loads(path.read_bytes())
    head = value.get("artefact")
    if isinstance(head, dict):
        head["made_from"] = f"{chance.getrandbits(128):032x}"
    else:
        value["key"] = f"{chance.getrandbits(128):032x}"
    path.write_text(json.dumps(value))
    return True


def take_a_name_out(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    value = json.loads(path.read_bytes())
    inside = value.get("content", value)
    inside = inside if isinstance(inside, dict) and inside else value
    inside.pop(chance.choice(sorted(inside)))
    path.write_text(json.dumps(value))
    return True


def _writes(text: str) -> Mutation:
    def write(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
        path.write_text(text)
        return True

    return write


def _named(name: str, mutation: Mutation) -> Mutation:
    mutation.__name__ = name  # type: ignore[attr-defined]
    return mutation


OF_JSON: tuple[Mutation, ...] = (
    edit_a_number, another_key, take_a_name_out,
    _named("another_type", _writes('{"artefact": [], "content": 3, "seal": {}}')),
    _named("null", _writes("null")),
    _named("a_list", _writes('[{"artefact": {}}]')),
    _named("nested_to_exhaustion", _writes("[" * 100_000)),
    _named("not_utf8", lambda path, others, chance: bool(path.write_bytes(b'{"content": "\xff\xfe"}'))),
)


def _tensors(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> bool:
    from safetensors.numpy import load, save

    arrays = load(path.read_bytes())
    path.write_bytes(save({name: np.ascontiguousarray(change(array)) for name, array in arrays.items()}))
    return True


def tensors_of_another_type(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    return _tensors(path, lambda array: array.astype(np.float64 if array.dtype.kind == "f" else np.int64))


def tensors_of_another_shape(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    return _tensors(path, lambda array: array[:-1] if len(array) > 1 else np.concatenate([array, array]))


def tensors_with_other_numbers(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    return _tensors(path, lambda array: array[::-1] if len(array) > 1 else array + array.dtype.type(1))


OF_TENSORS: tuple[Mutation, ...] = (tensors_of_another_type, tensors_of_another_shape, tensors_with_other_numbers)


def _array(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> bool:
    array = np.load(path)
    with path.open("wb") as file:
        np.save(file, change(array))
    return True


def array_of_another_type(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    return _array(path, lambda array: array.astype(np.float64))


def array_of_another_shape(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    return _array(path, lambda array: array[..., :-1])


def array_with_other_numbers(path: Path, others: Sequence[Path], chance: random.Random) -> bool:
    return _array(path, lambda array: -array)


OF_ARRAYS: tuple[Mutation, ...] = (array_of_another_type, array_of_another_shape, array_with_other_numbers)


def mutations_of(suffix: str) -> tuple[Mutation, ...]:
    """All that can be done to a file of a format.

    Args:
        suffix: of its name, for example ``.json``.
    """
    more = {".json": OF_JSON, ".safetensors": OF_TENSORS, ".npy": OF_ARRAYS}
    return OF_FILES + more.get(suffix, ())


def swap(first: Path, second: Path) -> None:
    """Exchange two files."""
    aside = first.with_name(f"{first.name}.aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)
