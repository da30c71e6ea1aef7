"""Look at a logit store, check it, copy it."""
