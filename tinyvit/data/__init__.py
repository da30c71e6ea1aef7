"""Reading: shards where they lie, the index of a data set, the order of an epoch, views in batches, data processes."""
