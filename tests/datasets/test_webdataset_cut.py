"""Truncated or broken archives: the samples before the damage are read, and the rest is one failure."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import tracemalloc

import pytest
from storage_helpers import documents
from tar_files import (
    BLOCK,
    embed,
    members,
    picture_vector,
    rows_of,
    tar_bytes,
    write_tar,
)

from clipmill.datasets import plan_shards, read_documents, read_failures


def complete_before(data: bytes, cut: int) -> list[str]:
    """Return the keys of the samples whose image ends before a byte, read with `tarfile`."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        found = [m for m in archive if m.name.endswith(".png") and m.offset_data + m.size <= cut]
    return [member.name.removesuffix(".png") for member in found]


def places(data: bytes) -> dict[str, int]:
    """Return the offsets at which to truncate an archive: one in each part of the fourth sample."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        by_name = {member.name: member for member in archive}
    image, text = by_name["000000003.png"], by_name["000000003.txt"]
    end = text.offset_data + text.size
    return {
        "in an extended header": image.offset + 100,
        "in what an extended header says": image.offset + BLOCK + 10,
        "in a header": image.offset_data - 200,
        "between header and data": image.offset_data,
        "in data": image.offset_data + image.size // 2,
        "in padding": image.offset_data + image.size + 1,
        "between files": image.offset_data + image.size + (-image.size % BLOCK),
        "between samples": end + (-end % BLOCK),
        "before the end mark": len(data.rstrip(b"\0")) + (-len(data.rstrip(b"\0")) % BLOCK),
    }


PLACES = list(places(tar_bytes(members(range(6)))))


@pytest.mark.parametrize("rows", [2, 1024])
@pytest.mark.parametrize("place", PLACES)
def test_a_truncated_tar_yields_its_readable_members_and_one_failure(tmp_path, place, rows):
    data = tar_bytes(members(range(6)))
    cut = places(data)[place]
    (tmp_path / "x.tar").write_bytes(data[:cut])
    embed(tmp_path / "out", tmp_path / "x.tar", rows=rows)
    found = rows_of(tmp_path / "out")
    assert list(found) == complete_before(data, cut)
    assert [row["embedding"] for row in found.values()] == [picture_vector(int(name)) for name in found]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert failure["code"] == "malformed"
    assert failure["row"].startswith(f"{tmp_path / 'x.tar'}:")
    assert any(said in failure["message"] for said in ("is cut off in", "is it cut off?", "no file follows"))


def test_a_truncated_end_marker_loses_nothing(tmp_path):
    data = tar_bytes(members([0]))
    end = len(data.rstrip(b"\0"))
    for length in (end + (-end % BLOCK) + 1, end + (-end % BLOCK) + BLOCK, len(data) - 1):
        (tmp_path / "x.tar").write_bytes(data[:length])
        assert [d.failures for d in documents(tmp_path / "x.tar")] == [()]


def test_random_truncation_loses_no_sample_before_it_and_never_ends_the_job(tmp_path):
    data = tar_bytes(members(range(8)))
    drawn = random.Random(4)
    end = len(data.rstrip(b"\0"))
    for _ in range(60):
        cut = drawn.randrange(1, end)
        (tmp_path / "x.tar").write_bytes(data[:cut])
        found = documents(tmp_path / "x.tar", rows=drawn.choice([1, 3, 100]))
        assert [d.id for d in found if not d.failures] == complete_before(data, cut), cut
        assert len([d for d in found if d.failures]) == 1, cut


def test_a_truncated_compressed_tar_yields_the_samples_before_the_cut(tmp_path):
    drawn = random.Random(5)
    noise = [(f"{n}.png", drawn.randbytes(3000)) for n in range(30)]
    packed = gzip.compress(tar_bytes(noise))
    (tmp_path / "x.tar.gz").write_bytes(packed[: len(packed) // 2])
    found = documents(tmp_path / "x.tar.gz")
    whole = [(d.id, d.blob) for d in found if not d.failures]
    assert whole == [(name.removesuffix(".png"), data) for name, data in noise[: len(whole)]]
    assert 10 < len(whole) < 20
    assert [str(d.failures[0].code) for d in found if d.failures] == ["malformed"]


def test_a_broken_header_ends_the_archive_with_one_failure(tmp_path):
    data = bytearray(tar_bytes(members(range(6)), format=tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        broken = archive.getmember("000000003.png").offset
    data[broken + 150] ^= 0xFF  # in the checksum
    (tmp_path / "x.tar").write_bytes(data)
    embed(tmp_path / "out", tmp_path / "x.tar", rows=2)
    assert list(rows_of(tmp_path / "out")) == ["000000000", "000000001", "000000002"]
    (failure,) = read_failures(str(tmp_path / "out"))
    assert failure["code"] == "malformed"
    assert f"the header at byte {broken} is broken" in failure["message"]


def test_random_bytes_in_headers_never_end_the_job_and_lose_nothing_before(tmp_path):
    data = tar_bytes(members(range(6)), format=tarfile.USTAR_FORMAT)
    drawn = random.Random(6)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        headers = [(member.offset, member.name) for member in archive]
    for _ in range(60):
        offset, name = drawn.choice(headers)
        damaged = bytearray(data)
        for _ in range(drawn.randrange(1, 8)):
            damaged[offset + drawn.randrange(BLOCK)] = drawn.randrange(256)
        (tmp_path / "x.tar").write_bytes(damaged)
        found = documents(tmp_path / "x.tar", rows=drawn.choice([2, 100]))
        before = [f"{n:09d}" for n in range(int(name[:9]))]
        assert [d.id for d in found][: len(before)] == before


@pytest.mark.parametrize("content", [b"9999=path=x\n", b"9999 path=x\n", b"-1 path=x\n", b"0 path=x\n", b"x"])
def test_broken_extended_headers_are_one_failure(tmp_path, content):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, len(content)
    first = info.tobuf(tarfile.USTAR_FORMAT) + content.ljust(BLOCK, b"\0")
    (tmp_path / "x.tar").write_bytes(first + tar_bytes(members([0])))
    (failed,) = documents(tmp_path / "x.tar")
    assert "the extended header before byte 1024 is broken" in failed.failures[0].message


def test_an_extended_header_of_gigabytes_is_not_read(tmp_path):
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 2**33
    (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    (failed,) = documents(tmp_path / "x.tar")
    assert f"has {2**33} bytes" in failed.failures[0].message


def test_memory_does_not_grow_with_the_tar(tmp_path):
    """The peak memory of ten times the samples is the same: one sample at a time is in memory."""

    def most(count: int) -> int:
        path = write_tar(tmp_path / f"{count}.tar", [(f"{n:05d}.png", bytes(50_000)) for n in range(count)])
        (shard,) = plan_shards([str(path)], rows_per_shard=10**6)
        tracemalloc.start()
        assert sum(1 for _ in read_documents(shard)) == count
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(5)  # imports
    small = most(40)
    assert most(400) < small * 1.5 < 40 * 50_000
