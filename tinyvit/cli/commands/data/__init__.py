"""Make, fetch, pull, index and check WebDataset shards."""
