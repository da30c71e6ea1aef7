"""The index: every tar read to its end, every sample found where it lies, every key once, no stale knowledge."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support import EXAMPLE, samples_of
from webdataset.compat import WebDataset

from logitstore import ShardTable, write_whole
from tinyvit.data import index as index_module
from tinyvit.data.index import INDEX_NAME, ShardIndex, index_shards
from tinyvit.data.join import key_digest
from tinyvit.data.shards import extents
from tinyvit.datasets.make import write_shards
from tinyvit.datasets.sources import SourceImage
from tinyvit.errors import UserError
from tinyvit.runtime.progress import LogProgress


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    data.mkdir()
    for shard in sorted((EXAMPLE / "train").glob("*.tar"))[:2]:
        shutil.copy(shard, data)
    return data


def indexed(data: Path) -> ShardIndex:
    return index_shards(data, LogProgress())


def by_webdataset(shard: Path) -> list[dict[str, bytes]]:
    return list(WebDataset(str(shard), shardshuffle=False))


def cut(shard: Path, samples: int) -> None:
    """Cut a tar at the border of a sample, where webdataset notices nothing."""
    whole = shard.read_bytes()
    key = str(by_webdataset(shard)[samples]["__key__"]).encode()
    shard.write_bytes(whole[: whole.index(key + b".")])


def test_index_counts_and_digests_are_those_of_the_shards(folder: Path) -> None:
    table = indexed(folder).table
    assert table.samples == (250, 250)
    keys = [str(s["__key__"]) for s in by_webdataset(folder / table.name[1])]
    assert [int(d) for d in table.key_digest[1]] == [key_digest(k) for k in keys]
    assert indexed(folder).keys(1) == keys


def add(tar: tarfile.TarFile, name: str, content: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(content), kind, target
    tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_kind_of_tar_is_read_as_webdataset_reads_it(tmp_path: Path, form: int) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=form) as tar:
        add(tar, "__meta__/a.json", b"{}")
        add(tar, "__index__", b"x")
        add(tar, "deep", kind=tarfile.DIRTYPE)
        add(tar, "deep/er/a.JPG", b"one" * 300)
        add(tar, "deep/er/a.cls", b"3")
        add(tar, "noextension", b"x")
        add(tar, f"long/{'n' * 90}/{'m' * 80}.png", b"two")
        add(tar, f"long/{'n' * 90}/{'m' * 80}.seg.png", b"mask")
        add(tar, "b.txt", b"caption")
        add(tar, "b", kind=tarfile.DIRTYPE)
        add(tar, "b.webp", b"")
        if form != tarfile.USTAR_FORMAT:
            add(tar, "schön/ß.bmp", b"four")
            add(tar, f"{'k' * 300}.tif", b"five")
    wanted = by_webdataset(tmp_path / "a.tar")
    found = samples_of(tmp_path)
    assert [(s.slot, s.key) for s in found] == [(i, str(s["__key__"])) for i, s in enumerate(wanted)]
    suffixes = ("jpg", "png", "webp", "bmp", "tif")
    assert [s.image for s in found] == [next(s[x] for x in suffixes if x in s) for s in wanted]
    assert found[0].label == 3
    assert {s.label for s in found[1:]} == {None}


def test_names_that_point_elsewhere_never_touch_the_file_system(tmp_path: Path) -> None:
    data = tmp_path / "in" / "data"
    data.mkdir(parents=True)
    with tarfile.open(data / "a.tar", "w") as tar:
        for name in ("../../escaped.png", "/tmp/absolute.png", "a/../b.png"):
            add(tar, name, b"x")
        # Of no sample, by its name.
        add(tar, "link", kind=tarfile.SYMTYPE, target="/etc/passwd")
    before = sorted(tmp_path.rglob("*"))
    assert all(sample.image == b"x" for sample in samples_of(data))
    assert {p.name for p in {*tmp_path.rglob("*")} - {*before}} == {f.name for f in data.iterdir()} - {"a.tar"}
    assert not Path("/tmp/absolute.png").exists()


def test_a_changed_shard_is_indexed_again_and_the_others_are_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = indexed(folder).table
    _, two = sorted(folder.glob("*.tar"))
    write_shards(
        [SourceImage("new", "png", b"x", 0)], folder / "n", classes=["a"], per_shard=1, seed=0, progress=LogProgress()
    )
    shutil.copy(folder / "n" / "shard-000000.tar", two)
    read: list[str] = []

    def counting(shard: str, stream: Any) -> Any:
        read.append(shard)
        return extents(shard, stream)

    monkeypatch.setattr(index_module, "extents", counting)
    after = indexed(folder)
    assert read == [str(two)]
    assert after.table.samples == (250, 1)
    assert after.table.differences(before)
    assert sorted(f.suffix for f in folder.glob("index*")) == [".json", ".keys", ".npy"]


def test_an_index_travels_as_the_names_of_its_files(folder: Path) -> None:
    index = indexed(folder)
    copied = pickle.loads(pickle.dumps(index))
    assert len(pickle.dumps(index)) < 1000
    assert copied.shard(1).read([7, 3]) == index.shard(1).read([7, 3])


@pytest.mark.parametrize("part", ["json", "npy", "keys"])
def test_an_index_that_is_not_whole_is_not_trusted(folder: Path, part: str) -> None:
    indexed(folder)
    file = next(folder.glob(f"index*.{part}"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert indexed(folder).table.samples == (250, 250)
    assert len(samples_of(folder)) == 500


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def refuse(path: Path, data: bytes) -> None:
        # As root, who runs tests in containers, may write everywhere.
        if folder in path.parents:
            raise PermissionError(13, "Permission denied")
        write_whole(path, data)

    monkeypatch.setattr(index_module, "write_whole", refuse)
    index = indexed(folder)
    assert tmp_path / "cache" in index.folder.parents
    assert sorted(f.suffix for f in folder.iterdir()) == [".tar", ".tar"]
    monkeypatch.setattr(index_module, "extents", None)
    assert indexed(folder).table.samples == (250, 250)


@pytest.mark.parametrize("samples", [3, 249])
def test_a_tar_cut_at_a_sample_border_is_named(folder: Path, samples: int) -> None:
    shard = min(folder.glob("*.tar"))
    cut(shard, samples)
    assert len(by_webdataset(shard)) == samples, "webdataset itself must not notice"
    with pytest.raises(UserError, match=f"{shard.name} is cut short"):
        indexed(folder)


def test_a_tar_cut_in_the_middle_of_a_member_is_named(folder: Path) -> None:
    shard = min(folder.glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:100_700])
    with pytest.raises(UserError, match=rf"{shard.name} is not a whole tar \(unexpected end of data\)"):
        indexed(folder)


def test_a_tar_cut_in_the_middle_of_a_header_is_cut_short(folder: Path) -> None:
    shard = min(folder.glob("*.tar"))
    cut(shard, 9)
    border = shard.stat().st_size
    whole = shard.with_name(max(folder.glob("*.tar")).name).read_bytes()
    # The first bytes of any header.
    shard.write_bytes(shard.read_bytes() + whole[:100])
    assert shard.stat().st_size == border + 100
    with pytest.raises(UserError, match=f"{shard.name} is cut short"):
        indexed(folder)


def test_a_shard_that_changes_after_the_index_is_named_at_the_join(folder: Path) -> None:
    index = indexed(folder)
    one, two = index.shards()
    whole = Path(one.path).read_bytes()
    cut(Path(one.path), 100)
    assert len(one.read(range(100))) == 100
    with pytest.raises(UserError, match=r"train-000000.tar was cut short or removed after it was indexed"):
        one.read([100])
    Path(two.path).write_bytes(whole)
    keys = index.keys(0)[0], index.keys(1)[0]
    with pytest.raises(UserError, match=f"slot 0 holds the key '{keys[0]}', in the index it is '{keys[1]}'"):
        two.read([0])
    Path(two.path).unlink()
    with pytest.raises(UserError, match="removed after it was indexed"):
        two.read([0])


def test_a_shard_whose_bytes_moved_is_named(folder: Path) -> None:
    one = next(indexed(folder).shards())
    Path(one.path).write_bytes(bytes(512) + Path(one.path).read_bytes()[:-512])
    with pytest.raises(UserError, match=r"slot 5 does not hold a sample|slot 5 holds the key"):
        one.read([5])


def test_a_key_in_two_shards_is_named(folder: Path) -> None:
    one = min(folder.glob("*.tar"))
    shutil.copy(one, folder / "copy.tar")
    with pytest.raises(UserError, match=r"'train-\d+' occurs twice, in copy.tar and in train-000000.tar.*250 such"):
        indexed(folder)


def test_a_sample_without_an_image_is_named(tmp_path: Path) -> None:
    write_shards(
        [SourceImage("a", "txt", b"x", 0)], tmp_path, classes=["a"], per_shard=1, seed=0, progress=LogProgress()
    )
    with pytest.raises(UserError, match=r"the sample 'a' has no image \(it holds cls, txt\)"):
        indexed(tmp_path)


def test_a_tar_with_a_damaged_header_is_named(folder: Path) -> None:
    shard = min(folder.glob("*.tar"))
    content = bytearray(shard.read_bytes())
    content[0:400] = b"x" * 400
    shard.write_bytes(content)
    with pytest.raises(UserError, match=f"{shard.name} is not a whole tar"):
        indexed(folder)


def test_a_tar_with_a_damaged_header_in_the_middle_is_named(folder: Path) -> None:
    shard = min(folder.glob("*.tar"))
    key = str(by_webdataset(shard)[9]["__key__"]).encode()
    shard.write_bytes(shard.read_bytes().replace(key, b"train-xxxxx"))
    assert len(by_webdataset(shard)) == 9, "webdataset itself must not notice"
    with pytest.raises(UserError, match=rf"{shard.name} is damaged: its members end at byte \d+, but it goes on"):
        indexed(folder)


def test_two_tars_that_were_joined_are_refused(folder: Path) -> None:
    one, two = sorted(folder.glob("*.tar"))
    one.write_bytes(one.read_bytes() + two.read_bytes())
    two.unlink()
    assert len(by_webdataset(one)) == 250, "webdataset itself must not notice"
    with pytest.raises(
        UserError, match=rf"{one.name} is damaged: its members end at byte \d+, but it goes on, as where"
    ):
        indexed(folder)


def test_a_tar_whose_last_image_ends_in_zeros_is_whole(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.png", b"x" + bytes(5000))
    whole = (tmp_path / "a.tar").read_bytes()
    assert indexed(tmp_path).counts == (1,)
    for size in (1024, 512, 0):
        # 5,001 bytes are ten blocks behind a header.
        (tmp_path / "a.tar").write_bytes(whole[: 512 * 11 + size])
        if size == 1024:
            assert indexed(tmp_path).counts == (1,)
        else:
            with pytest.raises(UserError, match="cut short"):
                indexed(tmp_path)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_a_member_that_webdataset_leaves_out_is_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.png", b"x")
        add(tar, "b.png", kind=kind, target="a.png")
    assert len(by_webdataset(tmp_path / "a.tar")) == 1, "webdataset itself must not notice"
    with pytest.raises(UserError, match=r"a.tar: 'b.png' is a link, a device or stored with holes"):
        indexed(tmp_path)


def test_a_file_with_holes_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    subprocess.run(["tar", "-S", "-C", tmp_path, "-cf", tmp_path / "a.tar", "a.png"], check=True)
    with pytest.raises(UserError, match=r"'a.png' is a link, a device or stored with holes"):
        indexed(tmp_path)


@pytest.mark.parametrize("other", ["b.tar.gz", "B.TAR", "b.tgz", "b.tar.zst"])
def test_what_looks_like_a_shard_and_is_not_read_is_refused(folder: Path, other: str) -> None:
    (folder / other).write_bytes(b"x")
    with pytest.raises(UserError, match=rf"{other} is not read: shards are plain tars called .tar; unpack or rename"):
        indexed(folder)


def test_hidden_files_are_no_shards(folder: Path) -> None:
    (folder / "._train-000000.tar").write_bytes(b"what macOS leaves on other disks")
    assert indexed(folder).counts == (250, 250)


def test_names_of_files_and_folders_that_are_not_utf8(folder: Path, tmp_path: Path) -> None:
    odd = folder.rename(tmp_path / os.fsdecode(b"f\xe9"))
    assert indexed(odd).counts == (250, 250)
    (odd / "train-000000.tar").rename(odd / os.fsdecode(b"\xe9.tar"))
    with pytest.raises(UserError, match="has a name that is not UTF-8; rename it"):
        indexed(odd)


def test_class_names_are_read_by_line_feeds_alone(folder: Path) -> None:
    for content, names in (
        (b"cat\ndog\n", ["cat", "dog"]),
        (b"cat\r\ndog\r\n\r\n", ["cat", "dog"]),
        (b"\xef\xbb\xbfcat\ndog", ["cat", "dog"]),
        ("ca\u2028t\nd\x0bog\x85\n".encode(), ["ca\u2028t", "d\x0bog\x85"]),
    ):
        (folder / "classes.txt").write_bytes(content)
        assert indexed(folder).place.class_names() == names
    for content, words in (
        ("Käse\n".encode("latin-1"), "classes.txt is not UTF-8; save it as UTF-8"),
        (b"cat\n\ndog\n", "classes.txt: line 2 is empty"),
        (b"", "classes.txt: line 1 is empty"),
        (b"cat\rdog\n", "classes.txt: line 1 has a carriage return in it"),
    ):
        (folder / "classes.txt").write_bytes(content)
        with pytest.raises(UserError, match=words):
            indexed(folder).place.class_names()


@pytest.mark.parametrize("name", ["", "a\nb", "a\rb", "a\r", "\ufeffa", "caf\udce9"])
def test_a_name_that_a_class_list_would_not_give_back_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"the class name .* is empty, has a line break or is not UTF-8; rename it"):
        write_shards(
            [SourceImage("a", "png", b"x", 0)],
            tmp_path,
            classes=["a", name],
            per_shard=1,
            seed=0,
            progress=LogProgress(),
        )
    assert not any(tmp_path.iterdir())


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        add(tar, "fuß.png", b"x")
    with pytest.raises(UserError, match=r"a.tar has a member whose name is not UTF-8"):
        indexed(tmp_path)


def test_two_members_of_one_name_are_named(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        add(tar, "a.png", b"x")
        add(tar, "a.png", b"y")
    with pytest.raises(UserError, match=r"a.tar is not a WebDataset tar"):
        indexed(tmp_path)


def test_the_index_says_which_format_it_has(folder: Path) -> None:
    index = indexed(folder)
    document = json.loads((index.folder / INDEX_NAME).read_text())
    (index.folder / INDEX_NAME).write_text(json.dumps(document | {"format": 1}))
    assert isinstance(indexed(folder).table, ShardTable)
    assert json.loads((index.folder / INDEX_NAME).read_text())["format"] == document["format"]
