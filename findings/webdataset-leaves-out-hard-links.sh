#!/usr/bin/env bash
# webdataset 1.0.2 leaves out what tar stores as a link, without a word. GNU tar does so with every file but the first of
# those that are hard links to one another, and that is what tools for finding duplicates (rdfind, jdupes -L, hardlink)
# make of equal files: of a data set whose duplicates were linked and which is then packed with `tar cf`, a sample whose
# picture is the second name comes without it, and one all of whose files are second names does not come at all. tar itself
# unpacks all of them; `tar --hard-dereference` packs them as files.
#
# Seen: files in the folder 6, members of the tar 6
#       samples as packed: a cls,jpg; b cls
#       samples of --hard-dereference: a cls,jpg; b cls,jpg; c cls,jpg
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" -q install webdataset==1.0.2 numpy==2.4.6
mkdir "$place/data"
cd "$place/data"
printf 'the bytes of a picture' > a.jpg
printf '0' > a.cls
printf '1' > b.cls
# The same picture under two classes, and a sample that is another one throughout.
ln a.jpg b.jpg
ln a.jpg c.jpg
ln a.cls c.cls
tar --sort=name -cf ../packed.tar ./*
tar --sort=name --hard-dereference -cf ../plain.tar ./*
cd ..
"$place/venv/bin/python" - <<'PYTHON'
import os
import tarfile

import webdataset as wds


def samples(name):
    read = wds.WebDataset(name, shardshuffle=False)
    return {s["__key__"].removeprefix("./"): ",".join(sorted(k for k in s if k[0] != "_")) for s in read}


def told(found):
    return "; ".join(f"{key} {suffixes}" for key, suffixes in found.items())


files, members = len(os.listdir("data")), len(tarfile.open("packed.tar").getnames())
print(f"files in the folder {files}, members of the tar {members}")
packed, plain = samples("packed.tar"), samples("plain.tar")
print("samples as packed:", told(packed))
print("samples of --hard-dereference:", told(plain))
assert files == members == 6, (files, members)
assert packed == {"a": "cls,jpg", "b": "cls"}, packed
assert plain == {key: "cls,jpg" for key in "abc"}, plain
PYTHON
