"""The content of a message, however it comes."""

from __future__ import annotations

import os
import random
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.spool.content import MEMORY_LIMIT, Content
from smtpmail.spool.folder import Folder


def written(path: Path, pieces: Iterator[bytes]) -> bytes:
    """What a file of these pieces has behind its header."""
    content = Content(str(path))
    folder = Folder(str(path))
    try:
        for piece in pieces:
            content.write(piece)
        file = content.make_file(folder, b"X: y\n")
        try:
            size = os.fstat(file.fd).st_size
            assert size == content.size + 5
            data = os.pread(file.fd, size, 0)
        finally:
            file.close()
    finally:
        folder.close()
        content.close()
    assert data.startswith(b"X: y\n")
    return data[5:]


def cut(data: bytes, at: list[int]) -> Iterator[bytes]:
    start = 0
    for size in at:
        if start < len(data):
            yield data[start : start + size]
            start += size
    if start < len(data):
        yield data[start:]


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 1023, 1024, 1025, 1100, 100_000])
def test_small_pieces(tmp_path: Path, size: int, count: int) -> None:
    """More of them than one call to the kernel takes."""
    data = random.Random(1).randbytes(size * count)
    assert written(tmp_path, cut(data, [size] * count)) == data


@given(
    st.integers(0, 3 * MEMORY_LIMIT),
    st.lists(st.one_of(st.integers(0, 9), st.integers(0, MEMORY_LIMIT + 1)), max_size=30),
)
def test_any_chunking(tmp_path_factory: pytest.TempPathFactory, size: int, sizes: list[int]) -> None:
    data = random.Random(size).randbytes(size)
    folder = tmp_path_factory.getbasetemp()
    assert written(folder, cut(data, sizes)) == data


@pytest.mark.parametrize("size", [1, 2, 10, 1000])
def test_memory_is_what_it_holds(tmp_path: Path, size: int) -> None:
    """Not what its pieces cost as objects of their own."""
    piece = b"x" * size
    tracemalloc.start()
    try:
        content = Content(str(tmp_path))
        for _ in range(MEMORY_LIMIT // size):
            content.write(piece)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert held < 1.5 * MEMORY_LIMIT + 20 * sys.getsizeof(piece)
    content.close()


def test_a_large_one_is_not_held(tmp_path: Path) -> None:
    content = Content(str(tmp_path))
    tracemalloc.start()
    try:
        for _ in range(400):
            content.write(b"x" * 10_000)
        assert tracemalloc.get_traced_memory()[1] < 3 * MEMORY_LIMIT
    finally:
        tracemalloc.stop()
    assert os.listdir(tmp_path) == [], "and has no name yet"
    content.close()
