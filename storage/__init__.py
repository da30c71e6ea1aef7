"""The logit store: what a teacher said about every augmented view, as sparse rows in Zarr.

Numpy in, numpy out. The package knows nothing of models, images or workflows: it writes whole units,
commits them last, refuses what does not match and reads one epoch of one shard at a time.
"""

from storage.claims import Claims
from storage.durable import whole_file, write_whole
from storage.encoding import ENCODINGS, SELECTIONS
from storage.features import Features, FeatureSpec, FeatureStore
from storage.objects import Objects, Part, WholeOnly, open_objects
from storage.rows import Rows, UnitRows
from storage.spec import FORMAT_VERSION, ShardTable, StoreError, StoreSpec, Unit, digest_of
from storage.store import LogitStore
from storage.transfer import Difference, copy, copy_spec, diff, merge
from storage.verify import verify

__all__ = [
    "ENCODINGS",
    "FORMAT_VERSION",
    "SELECTIONS",
    "Claims",
    "Difference",
    "FeatureSpec",
    "FeatureStore",
    "Features",
    "LogitStore",
    "Objects",
    "Part",
    "Rows",
    "ShardTable",
    "StoreError",
    "StoreSpec",
    "Unit",
    "UnitRows",
    "WholeOnly",
    "copy",
    "copy_spec",
    "diff",
    "digest_of",
    "merge",
    "open_objects",
    "verify",
    "whole_file",
    "write_whole",
]
