"""Records of the journal: what was written is read; what is torn, old or planted is not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpmail.spool.record import (
    HEADER_SIZE,
    RECORD_HEAD,
    SECTOR,
    FormatError,
    Kind,
    Record,
    begins_with_record,
    decode_all,
    decode_header,
    encode_header,
)

GENERATION = bytes(range(16))
OTHER = bytes(16)

PLACES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80)
RECORDS = st.builds(
    Record,
    st.sampled_from(Kind),
    PLACES,
    st.integers(0, 2**64 - 1),
    st.binary(max_size=40),
    st.lists(st.binary(max_size=1500), max_size=3).map(tuple),
    st.integers(0, 2**64 - 1),
)


def encoded(*records: Record, generation: bytes = GENERATION) -> bytes:
    return b"".join(piece for record in records for piece in record.encode(generation))


def same(found: list[Record], expected: list[Record]) -> bool:
    def key(r: Record) -> tuple[object, ...]:
        return r.kind, r.place, r.number, r.state, r.content, r.time

    return list(map(key, found)) == list(map(key, expected))


@given(st.lists(RECORDS, max_size=5))
def test_what_was_written_is_read(records: list[Record]) -> None:
    data = encoded(*records)
    assert len(data) % SECTOR == 0
    assert same(list(decode_all(data + bytes(SECTOR), GENERATION)), records)


@given(st.lists(RECORDS, min_size=1, max_size=5), st.data())
def test_a_torn_record_ends_the_reading(records: list[Record], data: st.DataObject) -> None:
    """Whichever sector did not reach the disk: everything before its record is read, nothing of it or behind it."""
    whole = encoded(*records)
    missing = data.draw(st.integers(0, len(whole) // SECTOR - 1), label="sector")
    before = data.draw(st.binary(min_size=SECTOR, max_size=SECTOR), label="what an earlier use has left")
    start = missing * SECTOR
    torn = whole[:start] + before + whole[start + SECTOR :]
    reached, position = 0, 0
    for record in records:
        size = len(encoded(record))
        if start < position + size:
            break
        position += size
        reached += 1
    found = list(decode_all(torn, GENERATION))
    # A sector of nothing but padding that differs is no loss.
    assert same(found, records[:reached]) or same(found[: reached + 1], records[: reached + 1])


@given(st.lists(RECORDS, min_size=1, max_size=4), st.data())
def test_any_cut(records: list[Record], data: st.DataObject) -> None:
    whole = encoded(*records)
    found = list(decode_all(whole[: data.draw(st.integers(0, len(whole)))], GENERATION))
    assert same(found, records[: len(found)])


@given(RECORDS, RECORDS)
def test_an_earlier_use_is_not_read(record: Record, old: Record) -> None:
    data = encoded(record) + encoded(old, generation=OTHER)
    assert same(list(decode_all(data, GENERATION)), [record])


def test_a_sender_can_not_plant_a_record() -> None:
    """The content of an earlier message lies just where the next record would begin."""
    planted = encoded(Record(Kind.REMOVED, "bob", parts=(b"1\n",)), generation=OTHER)
    assert not list(decode_all(planted, GENERATION))
    message = Record(Kind.STORED, "bob", 7, b"\\Recent\n", (bytes(SECTOR - RECORD_HEAD - 11) + planted,))
    assert same(list(decode_all(encoded(message), GENERATION)), [message])


def test_header() -> None:
    header = encode_header(GENERATION, 1 << 20)
    assert len(header) == HEADER_SIZE
    assert decode_header(header) == (GENERATION, 1 << 20)
    for position in range(52):
        broken = bytearray(header)
        broken[position] ^= 1
        if not broken.startswith(b"smtpmail journal ") or broken[:24] == header[:24]:
            assert decode_header(bytes(broken)) is None
    assert decode_header(b"") is None
    assert decode_header(bytes(HEADER_SIZE)) is None


def test_another_version_is_not_taken_for_empty() -> None:
    """To go back to an older program after a crash must not lose mail."""
    with pytest.raises(FormatError, match="version"):
        decode_header(encode_header(GENERATION, 1 << 20).replace(b"journal 1", b"journal 2"))
    record = bytearray(encoded(Record(Kind.STORED, "bob", 1)))
    record[24] = 99
    import zlib

    end = RECORD_HEAD + len("bob")
    record[:4] = zlib.crc32(bytes(record[4:end])).to_bytes(4, "little")
    with pytest.raises(FormatError, match="kind 99"):
        list(decode_all(bytes(record), GENERATION))


def test_the_head_tells_whether_there_is_a_record() -> None:
    data = encoded(Record(Kind.FINISHED, parts=(b"a\n",)))
    assert begins_with_record(data, GENERATION)
    assert not begins_with_record(data, OTHER)
    assert not begins_with_record(b"", GENERATION)
