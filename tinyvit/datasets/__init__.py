"""Data sets as shards: made of folders, archives and lists, fetched, pulled from elsewhere, looked through."""
