#!/usr/bin/env bash
# zarr 3.1.6: the names of a group in memory come in another order in each process. `for name in group` (also keys(),
# arrays(), members()) of a group in a MemoryStore follows a set of strings, whose order follows Python's hash seed. The
# same arrays, made in the same order by the same program, are listed otherwise the next time: a checksum over the
# listing, or a document written from it, differs between two runs that hold the same data. On a local disk the order
# is that of the folder, which is not sorted either. Sort the names.
#
# Seen: memory: 4 orders by four hash seeds, such as "residual value valid class seed digest"
#       local: 3 orders in four folders, such as "seed valid value residual class digest"
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" -q install zarr==3.1.6 numpy==2.4.6
cat > "$place/order.py" <<'PYTHON'
import sys

import zarr
from zarr.storage import LocalStore, MemoryStore

store = MemoryStore() if sys.argv[1] == "memory" else LocalStore(sys.argv[2])
group = zarr.create_group(store)
for name in ("seed", "value", "valid", "class", "residual", "digest"):
    group.create_array(name, shape=(1,), dtype="u1")
print(" ".join(group))
PYTHON
for kind in memory local; do
    for seed in 1 2 3 4; do
        PYTHONHASHSEED=$seed "$place/venv/bin/python" "$place/order.py" "$kind" "$place/$kind-$seed"
    done > "$place/$kind.txt"
    echo "$kind: $(sort -u "$place/$kind.txt" | wc -l) orders by four hash seeds, each in a place of its own"
    cat "$place/$kind.txt"
done
[ "$(sort -u "$place/memory.txt" | wc -l)" -gt 1 ]
