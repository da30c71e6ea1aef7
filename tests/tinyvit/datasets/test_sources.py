"""Sources of images: every file is taken, or counted as left out, or refused; nothing becomes another class."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from PIL import Image, ImageFile
from support import samples_of, tinyvit
from torchvision.datasets.folder import IMG_EXTENSIONS

from tinyvit.config import Decode
from tinyvit.data.folders import is_image
from tinyvit.data.shards import IMAGE_SUFFIXES
from tinyvit.datasets.sources import Source, images_of, parts_of
from tinyvit.errors import UserError
from tinyvit.evaluation import open_images
from tinyvit.evaluation.images import FolderImages
from tinyvit.runtime.progress import LogProgress
from tinyvit.views.images import EncodedImage


def image(colour: int = 0, kind: str = "PNG", mode: str = "RGB") -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (8, 8), (colour, 90, 30)).convert(mode).save(content, kind)
    return content.getvalue()


def fill(root: Path, *names: str) -> Path:
    """Images, each another one, under these names."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image(number))
    return root


def pack_tar(path: Path, names: Iterable[str | tarfile.TarInfo]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for number, name in enumerate(names):
            member = tarfile.TarInfo(name) if isinstance(name, str) else name
            content = image(number) if member.isreg() else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def pack_zip(path: Path, names: Iterable[str | zipfile.ZipInfo]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as packed:
        for number, name in enumerate(names):
            packed.writestr(name, image(number))
    return path


def keys(found: Source) -> list[tuple[str, str]]:
    return [(found.classes[one.label], one.key) for one in found.images]


def refused(source: Path, words: str) -> None:
    with pytest.raises(UserError, match=words) as fault:
        parts_of(source)
    assert "\n" not in str(fault.value)


# By suffix: how Pillow writes it.
KINDS = {
    "jpg": ("JPEG", "RGB"), "JPEG": ("JPEG", "RGB"), "jfif": ("JPEG", "RGB"), "jpe": ("JPEG", "RGB"),
    "png": ("PNG", "RGB"), "apng": ("PNG", "RGB"), "webp": ("WEBP", "RGB"), "bmp": ("BMP", "RGB"),
    "ppm": ("PPM", "RGB"), "pgm": ("PPM", "L"), "pbm": ("PPM", "1"), "tif": ("TIFF", "RGB"), "tiff": ("TIFF", "RGB"),
    "gif": ("GIF", "P"), "avif": ("AVIF", "RGB"), "jp2": ("JPEG2000", "RGB"), "j2k": ("JPEG2000", "RGB"),
    "tga": ("TGA", "RGB"), "pcx": ("PCX", "RGB"), "dds": ("DDS", "RGB"), "sgi": ("SGI", "RGB"),
}  # fmt: skip


def test_what_pillow_decodes_and_torchvision_takes_is_packed_and_read_and_the_rest_is_counted(tmp_path: Path) -> None:
    for suffix, (kind, mode) in KINDS.items():
        (tmp_path / "in" / "a").mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / "a" / f"{suffix}-.{suffix}").write_bytes(image(7, kind, mode))
    for name in ("x.heic", "y.txt", "z.txt", "none", "._x.jpg", "Thumbs.db", "b.tar", ".hidden/x.jpg"):
        fill(tmp_path / "in", f"a/{name}")
    fill(tmp_path / "in", "readme.md", "loose.png", ".git/x.png", ".ipynb_checkpoints/x.png", "__MACOSX/x.png")
    (tmp_path / "in" / "b").mkdir()
    done = tinyvit("data", "make", tmp_path / "in", tmp_path / "o", "--workers", "0", "--json")
    assert done.returncode == 0, done.stderr
    left_out = {
        ".heic": 1, ".txt": 2, "without a suffix": 1, ".tar": 1, ".md": 1, "images in no class": 1, "hidden": 6,
    }  # fmt: skip
    assert json.loads(done.stdout) == {
        "shards": 1, "pictures": len(KINDS), "classes": 2, "classes_without_pictures": ["b"], "left_out": left_out,
    }  # fmt: skip
    assert "6 hidden, 2 .txt" in " ".join(done.stderr.split())
    assert (tmp_path / "o" / "classes.txt").read_text() == "a\nb\n"
    samples = samples_of(tmp_path / "o")
    assert sorted(sample.key for sample in samples) == sorted(f"a_{suffix}-" for suffix in KINDS)
    for sample in samples:
        assert EncodedImage(sample.image, Decode()).pixels().shape == (8, 8, 3)
    # The same for evaluation.
    opened = open_images(str(tmp_path / "in"), LogProgress())
    assert isinstance(opened, FolderImages)
    assert (sum(opened.counts), opened.classes, opened.left_out) == (len(KINDS), ["a", "b"], left_out)


def test_suffixes_are_those_of_what_pillow_decodes_by_itself() -> None:
    assert {suffix[1:] for suffix in IMG_EXTENSIONS} <= {*IMAGE_SUFFIXES}
    Image.init()
    by_format = Image.registered_extensions()
    # Of other programs, or only told from other files.
    stubs = {name for name, (factory, _) in Image.OPEN.items() if issubclass_of_stub(factory)} | {"EPS", "MPEG", "IPTC"}
    assert not {by_format[f".{suffix}"] for suffix in IMAGE_SUFFIXES if f".{suffix}" in by_format} & stubs
    # Those of the first eight have decided what an image is since there are stores.
    assert IMAGE_SUFFIXES[:8] == ("jpg", "jpeg", "png", "webp", "bmp", "ppm", "tif", "tiff")
    assert not is_image("no-decoder.heic")


def issubclass_of_stub(factory: object) -> bool:
    return isinstance(factory, type) and issubclass(factory, ImageFile.StubImageFile)


def test_folders_and_images_that_are_links_are_taken_and_loops_are_not(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", "a/1.png", "b/c/2.png")
    elsewhere = fill(tmp_path / "elsewhere", "3.png", "deep/4.png")
    (root / "a" / "inside").symlink_to(elsewhere)
    (root / "d").symlink_to(elsewhere)
    (root / "a" / "5.png").symlink_to(elsewhere / "3.png")
    (root / "a" / "loop").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a" / "self")
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    os.mkfifo(root / "a" / "fifo.png")
    found = images_of(root)
    assert keys(found) == [
        ("a", "a_1"), ("a", "a_5"), ("a", "a_inside_3"), ("a", "a_inside_deep_4"), ("b", "b_c_2"), ("d", "d_3"),
        ("d", "d_deep_4"),
    ]  # fmt: skip
    assert found.left_out == {"link to a folder above": 1, "broken link": 2, "no plain file": 1}


def test_train_and_val_become_shards_with_one_class_list(tmp_path: Path) -> None:
    root = fill(tmp_path / "in", "train/cat/1.png", "train/dog/2.png", "train/emu/3.png", "Validation/dog/4.png")
    fill(root, "train/notes.txt", ".cache/x.png")
    done = tinyvit("data", "make", root, tmp_path / "o", "--workers", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "val": {
            "shards": 1, "pictures": 1, "classes": 3, "classes_without_pictures": ["cat", "emu"], "left_out": {},
        },
        "train": {
            "shards": 1, "pictures": 3, "classes": 3, "classes_without_pictures": [], "left_out": {".txt": 1},
        },
    }  # fmt: skip
    assert {(s.key, s.label) for s in samples_of(tmp_path / "o" / "val")} == {("dog_4", 1)}
    for part in ("train", "val"):
        assert (tmp_path / "o" / part / "classes.txt").read_text() == "cat\ndog\nemu\n"
    with pytest.raises(UserError, match=r"in holds train, Validation, each with folders of classes; give one of them"):
        open_images(str(root), LogProgress())
    fill(root, "Validation/bee/5.png")
    refused(root, r"in/Validation has the class 'bee', which .*in/train has not \(1 such\)")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("train/1.png", "val/2.png"), "holds train, val, parts of a data set, but train has no folders of classes"),
        (("train/a/1.png", "test/2.png"), "but test has no folders of classes"),
        (("val/a/1.png", "test/a/1.png"), "holds val and test, but no train"),
        (("train/a/1.png", "val/a/1.png", "valid/a/1.png"), "parts of a data set, and what is none or one twice"),
        (("train/a/1.png", "val/a/1.png", "more/a/1.png"), "holds more, train, val: parts of a data set, and what is"),
    ],
)
def test_parts_of_a_data_set_that_cannot_be_packed_together(tmp_path: Path, names: tuple[str, ...], words: str) -> None:
    refused(fill(tmp_path, *names), words)


def test_archives_called_train_and_val_are_no_classes(tmp_path: Path) -> None:
    for part in ("train", "val"):
        pack_zip(tmp_path / f"{part}.zip", ("cat/1.png", "dog/2.png"))
    refused(
        tmp_path, "holds train.zip, val.zip, parts of a data set, but train.zip has no folders of classes; unpack it"
    )


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    found = parts_of(fill(tmp_path, "bus/1.png", "train/2.png", "test/3.png"))
    assert found[""].classes == ["bus", "test", "train"]
    assert images_of(fill(tmp_path / "more", "bus/1.png", "train/deep/2.png")).classes == ["bus", "train"]


@pytest.mark.parametrize("archived", [False, True])
def test_one_class_whose_folders_are_the_classes_is_refused(tmp_path: Path, archived: bool) -> None:
    if archived:
        pack_zip(tmp_path / "photos.zip", ("photos/cat/1.png", "photos/dog/2.png"))
    else:
        fill(tmp_path, "photos/cat/1.png", "photos/dog/2.png")
    refused(tmp_path, "holds photos alone, and its images lie in photos/cat and photos/dog: if these are the classes")


def test_images_in_no_class_are_told_from_shards_that_are_missing(tmp_path: Path) -> None:
    flat, root = (
        fill(tmp_path / "flat", "1.png", "2.png"),
        fill(tmp_path / "root", "train/cat/1.png", "train/dog/1.png"),
    )
    refused(flat, r"flat holds 2 images and no classes; put those of each class into a folder .*or list them in a .csv")
    for opened in (lambda: open_images(str(flat), LogProgress()), lambda: images_of(flat)):
        with pytest.raises(UserError, match="flat holds 2 images and no classes"):
            opened()
    for data, words in (
        (flat, f"holds no .tar shards, but 2 images without classes; put those .* `tinyvit data make {flat} OUT`"),
        (root, f"holds no .tar shards, but 2 folders, such as cat; .* `tinyvit data make {root} OUT`, and give OUT"),
        (fill(tmp_path, "list.csv") / "list.csv", "list.csv, but a file; give a folder of WebDataset"),
    ):
        for command in (
            ("label", "example", "--store", tmp_path / "s"),
            ("train", "example", "--run-dir", tmp_path / "r"),
        ):
            done = tinyvit(*command, "--data", data)
            assert done.returncode == 2
            assert re.search(words, " ".join(done.stderr.split()))


def test_a_folder_of_parts_with_shards_says_which(tmp_path: Path) -> None:
    pack_tar(tmp_path / "train" / "a.tar", ["a.png"])
    done = tinyvit("data", "index", tmp_path)
    assert done.returncode == 2
    assert f"but folders with some; give one of them: {tmp_path}/train" in " ".join(done.stderr.split())


def test_archives_beside_folders_are_refused(tmp_path: Path) -> None:
    pack_zip(tmp_path / "photos.zip", ("cat/1.png", "dog/2.png"))
    fill(tmp_path, "cat/1.png", "dog/2.png")
    refused(tmp_path, r"holds folders \(cat\) and archives \(photos.zip\), and either may be the classes")
    with pytest.raises(UserError, match="either may be the classes"):
        open_images(str(tmp_path), LogProgress())


@pytest.mark.parametrize("name", ["b.tar.gz", "b.tgz", "b.tar.bz2", "b.tar.xz", "b.TAR.ZST", "b.7z", "b.rar"])
def test_archives_that_are_packed_as_a_whole_are_refused(tmp_path: Path, name: str) -> None:
    pack_tar(tmp_path / "a.tar", ["1.png"])
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path, f"{name} is packed as a whole, so that no image can be read by itself; unpack it first")


def test_archives_are_known_by_their_suffix_in_any_case_and_once(tmp_path: Path) -> None:
    pack_tar(tmp_path / "a.TAR", ["1.png"])
    pack_zip(tmp_path / "b.Zip", ["2.png"])
    found = images_of(tmp_path)
    assert keys(found) == [("a", "a_1"), ("b", "b_2")]
    assert [one.read() for one in found.images] == [image(0), image(0)]
    pack_zip(tmp_path / "a.zip", ["2.png"])
    refused(tmp_path, "has 2 archives of the class 'a'; rename or join them")


def test_shards_are_no_archives_of_classes(tmp_path: Path) -> None:
    pack_tar(tmp_path / "shard-000000.tar", ["1.png", "1.cls"])
    refused(tmp_path, "holds shards, with labels in them, and no archives of classes")


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_members_of_a_tar_are_taken_or_counted(tmp_path: Path) -> None:
    odd = (
        special("again.png", tarfile.LNKTYPE, "1.png"),
        special("link.png", tarfile.SYMTYPE, "1.png"),
        special("lost.png", tarfile.LNKTYPE, "elsewhere.png"),
        special("device.png", tarfile.CHRTYPE),
        special("folder.png", tarfile.DIRTYPE),
    )
    names = ["../../up.png", "/abs.png", "._x.png", "caf\udce9.png", "x.txt"]
    pack_tar(tmp_path / "in" / "q.tar", ["1.png", *odd, *names])
    pack_tar(tmp_path / "in" / "r.tar", ["1.png"])
    found = images_of(tmp_path / "in")
    assert [key for _, key in keys(found)] == ["q_--_--_up", "q__abs", "q_1", "q_again", "q_caf-", "r_1"]
    assert found.images[3].read() == found.images[2].read() == image(0)
    assert found.left_out == {"link in an archive": 2, "no plain file": 1, "hidden": 1, ".txt": 1}
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "q.tar", "r.tar"]


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_member_with_holes_is_refused(tmp_path: Path, form: str) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    (tmp_path / "in").mkdir()
    archive = tmp_path / "in" / "a.tar"
    subprocess.run(["tar", "-S", f"--format={form}", "-C", tmp_path, "-cf", archive, "a.png"], check=True)
    refused(tmp_path / "in", "a.tar: 'a.png' is stored with holes; unpack it")


def test_archives_that_were_joined_are_refused(tmp_path: Path) -> None:
    for kind, pack in (("tar", pack_tar), ("zip", pack_zip)):
        one, two = pack(tmp_path / f"1.{kind}", ["1.png"]), pack(tmp_path / f"2.{kind}", ["2.png"])
        joined = tmp_path / kind / f"a.{kind}"
        joined.parent.mkdir()
        joined.write_bytes(one.read_bytes() + two.read_bytes())
        refused(joined.parent, rf"a.{kind} is not a whole archive \(.* at byte \d+: .*or joined of two\)")


def test_members_of_a_zip_are_taken_or_counted(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    archive = pack_zip(tmp_path / "in" / "a.zip", ["1.png", link, "__MACOSX/._1.png", "x_xx.png", "sub/", "x.txt"])
    # A name as old programs for DOS wrote them.
    archive.write_bytes(archive.read_bytes().replace(b"x_xx.png", b"x\x82\xe9x.png"))
    pack_zip(tmp_path / "in" / "b.zip", ["1.png"])
    found = images_of(tmp_path / "in")
    assert [key for _, key in keys(found)] == ["a_1", "a_xéΘx", "b_1"]
    assert found.images[1].read() == image(3)
    assert found.left_out == {"link in an archive": 1, "hidden": 1, ".txt": 1}


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_with_a_name_twice_are_refused(tmp_path: Path) -> None:
    for kind, pack in (("tar", pack_tar), ("zip", pack_zip)):
        pack(tmp_path / kind / f"a.{kind}", ["1.png", "1.png"])
        refused(tmp_path / kind, f"a.{kind} has 2 files with the name '1.png'")


def test_members_that_cannot_be_unpacked_are_one_line(tmp_path: Path) -> None:
    whole = pack_zip(tmp_path / "a.zip", ["1.png"]).read_bytes()
    entry = whole.index(b"PK\1\2")
    for place, value, words in (
        (8, 1, "a.zip is encrypted; unpack it first"),
        (10, 97, "1.png in .*a.zip cannot be read .*compression method"),
    ):
        changed = bytearray(whole)
        changed[entry + place] = changed[place - 2] = value
        (tmp_path / "a.zip").write_bytes(changed)
        with pytest.raises(UserError, match=words):
            images_of(tmp_path).images[0].read()


def test_a_member_that_is_cut_short_later_is_named(tmp_path: Path) -> None:
    archive = pack_tar(tmp_path / "a.tar", ["1.png"])
    (found,) = images_of(tmp_path).images
    archive.write_bytes(archive.read_bytes()[:550])
    with pytest.raises(UserError, match=r"1.png in .*a.tar cannot be read \(it was cut short\)"):
        found.read()


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\u2028b", " a", "a ", "a\tb", os.fsdecode(b"caf\xe9")])
def test_class_names_that_cannot_be_kept_are_refused(tmp_path: Path, name: str) -> None:
    refused(fill(tmp_path, f"{name}/1.png", "z/2.png"), r"a class|the class name")


def test_file_names_that_are_no_keys_are_made_harmless(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.png"), os.fsdecode(b"caf\xea.png"), "a\nb.png", "c\u2028d.png", "Käse.png"]
    fill(tmp_path / "in" / "a", *names)
    found = images_of(tmp_path / "in")
    assert [key[:7] for _, key in keys(found)] == ["a_Käse", "a_a-b", "a_caf--", "a_caf--", "a_c-d"]
    assert len({key for _, key in keys(found)}) == 5
    done = tinyvit("data", "make", tmp_path / "in", tmp_path / "o", "--workers", "0", "--json")
    assert done.returncode == 0, done.stderr
    assert {sample.key for sample in samples_of(tmp_path / "o")} == {key for _, key in keys(found)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("path,label\na.png,Käse\n".encode("latin-1"), "list.csv is not UTF-8; save it as UTF-8"),
        ("path,label\na.png,b\n".encode("utf-16"), "list.csv is not UTF-8; save it as UTF-8"),
        (b"path,label\na.png,b\n./a.png,b\n", "line 3: './a.png' is in line 2 already"),
        (b"path,label\na.png\n", "line 2 does not have 2 values"),
        (b"label,path\nb\n", "line 2 does not have 2 values"),
        (b"path,label\na.png,b,c\n", "line 2 does not have 2 values"),
        (b"path,label,label\na.png,b,c\n", "needs the columns path and label, once each; it has path, label, label"),
        (b"path;label\na.png;b\n", "needs the columns path and label, once each; it has path;label"),
        (b"", "needs the columns path and label"),
        (b"path,label\n", "list.csv has no images"),
        (b'path,label\na.png,"b\nc"\n', r"has a class 'b\\nc', with white space around it or a control character"),
        (b"path,label\na.png, b\n", "has a class ' b', with white space around it"),
        (b"path,label\na.png,b\0\n", r"has a class 'b\\x00'"),
        (b'path,label,note\na.png,b,"open\nc.png,d,e\n', r"list.csv, line 2: unexpected end of data; mend the line"),
        (b'path,label\na.png,"' + b"b" * 200_000 + b'"\n', "list.csv, line 2: field larger than field limit"),
    ],
)
def test_tables_that_cannot_be_read_are_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    fill(tmp_path, "a.png", "c.png")
    (tmp_path / "list.csv").write_bytes(content)
    refused(tmp_path / "list.csv", words)


def test_a_table_with_a_mark_of_byte_order_and_a_suffix_in_capitals_is_read(tmp_path: Path) -> None:
    fill(tmp_path, "a.png", "c.png")
    (tmp_path / "LIST.CSV").write_bytes("\ufeffpath,label\r\na.png,b\r\nc.png,a\r\n".encode())
    opened = open_images(str(tmp_path / "LIST.CSV"), LogProgress())
    assert (opened.classes, opened.counts) == (["a", "b"], (2,))


def test_the_order_depends_on_names_alone(tmp_path: Path) -> None:
    names = ["b/2.png", "a/x/1.png", "a/x.png", "a-b/1.png", "a/x-y/1.png", "B/1.png"]
    one, two = images_of(fill(tmp_path / "one", *names)), images_of(fill(tmp_path / "two", *reversed(names)))
    assert keys(one) == keys(two)
    assert one.classes == ["B", "a", "a-b", "b"]
    assert [key for _, key in keys(one)] == ["B_1", "a_x_1", "a_x-y_1", "a_x", "a-b_1", "b_2"]


@pytest.mark.parametrize("names", [("train", "dev"), ("Training", "Testing"), ("train_set", "val_set")])
def test_parts_of_a_data_set_by_other_names_are_no_classes(names: tuple[str, str], tmp_path: Path) -> None:
    for name in names:
        for number, colour in enumerate(("red", "green")):
            (tmp_path / name / colour).mkdir(parents=True)
            Image.new("RGB", (8, 8), colour).save(tmp_path / name / colour / f"{number}.png")
    with pytest.raises(UserError, match="each with green inside: parts of a data set, it seems"):
        images_of(tmp_path)
