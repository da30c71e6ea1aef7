"""Rows to the stored arrays of one epoch of one shard, and back."""

from __future__ import annotations

import numpy as np

from logitstore.chunks import UnitArray, Values
from logitstore.delta import absent_entries, delta_decode, delta_encode, step_dtype
from logitstore.rows import Rows, UnitRows, row_faults
from logitstore.spec import StoreSpec


def unit_arrays(spec: StoreSpec, slots: int) -> dict[str, UnitArray]:
    """The arrays that a unit of a logit store consists of, in the order of its checksum."""
    encoding = spec.coding
    outside = "0: every class is kept" if spec.nothing_outside else encoding.describe_residual()
    walk_of = "steps of a walk from the best class around the class ids; class_id = cumsum(class_step) % classes"
    arrays: list[tuple[str, str, tuple[str, ...], str]] = [
        ("class_step", step_dtype(spec.num_classes), ("slot", "entry"), walk_of),
        ("value", encoding.value_dtype(spec.top_k), ("slot", "entry"), encoding.describe(spec.top_k)),
        ("residual", encoding.residual_dtype, ("slot",), outside),
        ("seed", "uint32", ("slot",), "seed that remakes the view"),
        ("valid", "bool", ("slot",), "the row holds a teacher's answer"),
        ("view_digest", "uint32", ("probe",), "CRC-32 of the pixels of probe views before normalisation"),
    ]
    sizes = {"slot": slots, "entry": spec.top_k, "probe": spec.probes}
    return {
        name: UnitArray(
            name,
            np.dtype(dtype),
            tuple(sizes[dim] for dim in dims),
            dims,
            spec.epochs_per_unit,
            about,
            entry_first=name == "class_step",
        )
        for name, dtype, dims, about in arrays
    }


def pack(rows: UnitRows, number: int, spec: StoreSpec, arrays: dict[str, UnitArray]) -> Values:
    """The stored values of epoch `number` of a unit, padded to the length of the longest shard.

    Rows that are not valid become zeros, so that bytes are reproducible.
    """
    encoding = spec.coding
    valid = rows.valid[number]
    p = np.where(valid[:, None], rows.probability[number], 0)
    steps, order = delta_encode(np.where(valid[:, None], rows.class_id[number], 0), p > 0, spec.num_classes)
    residual = encoding.encode_residual(np.where(valid, rows.residual[number], 0))
    values = encoding.encode(
        np.take_along_axis(p, order, -1),
        encoding.decode_residual(residual, all_kept=spec.nothing_outside),
        spec.top_k,
    )
    # A row without logits has no best class either.
    values[~valid] = 0
    found: Values = {
        "class_step": steps,
        "value": values,
        "residual": residual,
        "seed": rows.seed[number],
        "valid": valid,
        "view_digest": rows.view_digest[number],
    }
    return {name: array.padded(found[name]) for name, array in arrays.items()}


def unpack(values: Values, samples: int, spec: StoreSpec) -> Rows:
    """Undo `pack`; an absent entry repeats the class before it with probability 0."""
    encoding = spec.coding
    steps = values["class_step"][:, :samples]
    residual = encoding.decode_residual(values["residual"][:samples], all_kept=spec.nothing_outside)
    absent = None if spec.all_there else absent_entries(steps)
    p = encoding.decode(values["value"][:samples], absent, residual, spec.top_k)
    return Rows(
        class_id=np.ascontiguousarray(delta_decode(np.ascontiguousarray(steps), spec.num_classes).T),
        probability=p,
        residual=residual,
        seed=values["seed"][:samples],
        valid=values["valid"][:samples],
        view_digest=values["view_digest"],
    )


def stored_faults(values: Values, samples: int, spec: StoreSpec) -> list[str]:
    """What is impossible in the stored values of an epoch; empty when nothing is."""
    rows = unpack(values, samples, spec)
    steps = values["class_step"][:, :samples][:, rows.valid]
    faults = []
    # More than one round of the circle, or a first class past its end, would decode to some class all the same.
    if steps.size and (
        steps[0].max() >= spec.num_classes or steps[1:].sum(axis=0, dtype=np.int64).max() >= spec.num_classes
    ):
        faults.append(f"a class id outside 0..{spec.num_classes - 1}")
    faults += row_faults(spec, rows.class_id[rows.valid], rows.probability[rows.valid], rows.residual[rows.valid])
    if len(np.unique(rows.seed)) != samples:
        faults.append("a seed twice in one epoch of a shard")
    past = [values[name][samples:] for name in ("value", "residual", "seed", "valid")]
    if values["class_step"][:, samples:].any() or any(array.any() for array in past):
        faults.append("values past the last sample")
    return faults
