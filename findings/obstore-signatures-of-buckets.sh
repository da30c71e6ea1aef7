#!/usr/bin/env bash
# obstore 0.12.1 opens some https addresses as buckets: from_url knows the hosts of S3 and Azure by their names. A signed URL
# of such a host loses its signature (the query) without a word; that of any other host keeps it. So a signed URL works
# with from_url on a test server, and not with the clouds that sign URLs. HTTPStore.from_url keeps the query for all.
#
# Seen: from_url https://host/shards?sig=1 -> HTTPStore("https://host/shards?sig=1")
#       from_url https://bucket.s3.us-east-1.amazonaws.com/shards?X-Amz-Signature=1
#           -> S3Store(bucket="bucket", prefix="shards")
#       from_url https://account.blob.core.windows.net/container/shards?sig=1
#           -> AzureStore(container_name="container", account_name="account", prefix="shards")
#       HTTPStore of all three: the query is there
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" -q install obstore==0.12.1
"$place/venv/bin/python" - <<'PYTHON'
from obstore.store import HTTPStore, from_url

ADDRESSES = {
    "https://host/shards?sig=1": "HTTPStore",
    "https://bucket.s3.us-east-1.amazonaws.com/shards?X-Amz-Signature=1": "S3Store",
    "https://account.blob.core.windows.net/container/shards?sig=1": "AzureStore",
}
for address, kind in ADDRESSES.items():
    opened = from_url(address)
    print("from_url", address, "->", opened)
    assert type(opened).__name__ == kind, opened
    assert (address in repr(opened)) == (kind == "HTTPStore"), opened
assert all(address in repr(HTTPStore.from_url(address)) for address in ADDRESSES)
print("HTTPStore of all three: the query is there")
PYTHON
