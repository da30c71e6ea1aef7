"""What timm calls its models."""

from __future__ import annotations

import timm

from tinyvit.errors import UserError, did_you_mean


def check_model_name(name: str) -> None:
    """UserError for a name, with or without the tag of its weights, that timm does not know."""
    tagged = "." in name
    known = timm.list_models(include_tags=tagged)
    # timm still takes names of old that it does not list.
    if name not in known and (tagged or not timm.is_model(name)):
        raise UserError(f"timm has no model {name!r}; {did_you_mean(name, known, 'see timm.list_models()')}")
