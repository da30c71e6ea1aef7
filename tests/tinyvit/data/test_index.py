"""The index: every tar read to its end, every key once, and no stale knowledge."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support import EXAMPLE

from tinyvit.data.index import INDEX_NAME, index_folder, key_digest
from tinyvit.data.join import checked_samples, indexed_shards
from tinyvit.data.make import Picture, write_shards
from tinyvit.data.shards import read_samples
from tinyvit.errors import UserError
from tinyvit.progress import LogProgress


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for shard in sorted((EXAMPLE / "train").glob("*.tar"))[:2]:
        shutil.copy(shard, tmp_path)
    return tmp_path


def cut(shard: Path, samples: int) -> None:
    """Cut a tar at the border of a sample, where webdataset notices nothing."""
    whole = shard.read_bytes()
    key = [s.key for s in read_samples(shard)][samples].encode()
    shard.write_bytes(whole[: whole.index(key + b".")])


def test_index_counts_and_digests_are_those_of_the_shards(folder: Path) -> None:
    table = index_folder(folder, LogProgress())
    assert table.samples == (250, 250)
    keys = [s.key for s in read_samples(folder / table.name[1])]
    assert [int(d) for d in table.key_digest[1]] == [key_digest(k) for k in keys]


def test_a_changed_shard_is_indexed_again_and_the_others_are_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = index_folder(folder, LogProgress())
    _, two = sorted(folder.glob("*.tar"))
    write_shards([Picture("new", "png", b"x", 0)], folder / "n", classes=["a"], per_shard=1, seed=0)
    shutil.copy(folder / "n" / "shard-000000.tar", two)
    read: list[str] = []
    monkeypatch.setattr("tinyvit.data.index.read_samples", lambda shard: read.append(shard.name) or read_samples(shard))
    after = index_folder(folder, LogProgress())
    assert read == [two.name]
    assert after.samples == (250, 1)
    assert after.differences(before)
    assert (folder / INDEX_NAME).exists()


def test_an_index_that_is_not_whole_is_not_trusted(folder: Path) -> None:
    index_folder(folder, LogProgress())
    content = (folder / INDEX_NAME).read_bytes()
    (folder / INDEX_NAME).write_bytes(content[: len(content) // 2])
    assert index_folder(folder, LogProgress()).samples == (250, 250)


@pytest.mark.parametrize("samples", [3, 249])
def test_a_tar_cut_at_a_sample_border_is_named(folder: Path, samples: int) -> None:
    shard = min(folder.glob("*.tar"))
    cut(shard, samples)
    assert len(list(read_samples(shard))) == samples, "webdataset itself must not notice"
    with pytest.raises(UserError, match=f"{shard.name} is cut short"):
        index_folder(folder, LogProgress())


def test_a_tar_cut_in_the_middle_of_a_member_is_named(folder: Path) -> None:
    shard = min(folder.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:100_700])
    with pytest.raises(UserError, match=f"{shard.name} is cut short"):
        index_folder(folder, LogProgress())


def test_a_shard_that_changes_after_the_index_is_named_at_the_join(folder: Path) -> None:
    table = index_folder(folder, LogProgress())
    one, two = indexed_shards(folder, table)
    cut(one.path, 100)
    with pytest.raises(UserError, match="ends after 100 of 250"):
        list(checked_samples(one))
    shutil.copy(one.path, two.path)
    with pytest.raises(UserError, match="slot 0 holds the key"):
        list(checked_samples(two))


def test_a_key_in_two_shards_is_named(folder: Path) -> None:
    one = min(folder.glob("*.tar"))
    shutil.copy(one, folder / "copy.tar")
    key = next(iter(read_samples(one))).key
    with pytest.raises(UserError, match=r"occurs twice, in copy.tar and in train-000000.tar.*250 such keys"):
        index_folder(folder, LogProgress())
    assert key.startswith("train-")


def test_a_sample_without_a_picture_is_named(tmp_path: Path) -> None:
    write_shards([Picture("a", "txt", b"x", 0)], tmp_path, classes=["a"], per_shard=1, seed=0)
    with pytest.raises(UserError, match=r"the sample 'a' has no image \(it holds cls, txt\)"):
        index_folder(tmp_path, LogProgress())


def test_a_tar_with_a_damaged_header_is_named(folder: Path) -> None:
    shard = min(folder.glob("*.tar"))
    content = bytearray(shard.read_bytes())
    content[0:400] = b"x" * 400
    shard.write_bytes(content)
    with pytest.raises(UserError, match=f"{shard.name} is not a whole tar"):
        index_folder(folder, LogProgress())
