"""The logit store: what a teacher said about every augmented view, as sparse rows in Zarr.

Numpy in, numpy out. The package knows nothing of models, images or workflows: it writes whole units,
commits them last, refuses what does not match and reads one epoch of one shard at a time.
"""

from logitstore.claims import Claims
from logitstore.durable import whole_file, write_whole
from logitstore.encoding import ENCODINGS, SELECTIONS
from logitstore.errors import StoreDamaged, StoreError, StoreFormatError, StoreMismatch, StoreNotFound, UnitMissing
from logitstore.features import Features, FeatureSpec, FeatureStore
from logitstore.maintenance import Difference, copy, copy_spec, diff, merge
from logitstore.objects import ByteRange, Objects, WholeOnly, open_objects
from logitstore.rows import Rows, UnitRows
from logitstore.spec import FORMAT_VERSION, ShardTable, StoreSpec, Unit, digest_of
from logitstore.store import LogitStore
from logitstore.verify import verify

__version__ = "0.1.0"

__all__ = [
    "ENCODINGS",
    "FORMAT_VERSION",
    "SELECTIONS",
    "ByteRange",
    "Claims",
    "Difference",
    "FeatureSpec",
    "FeatureStore",
    "Features",
    "LogitStore",
    "Objects",
    "Rows",
    "ShardTable",
    "StoreDamaged",
    "StoreError",
    "StoreFormatError",
    "StoreMismatch",
    "StoreNotFound",
    "StoreSpec",
    "Unit",
    "UnitMissing",
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
