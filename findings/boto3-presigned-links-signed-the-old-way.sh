#!/usr/bin/env bash
# boto3 1.44.8, botocore 1.44.8: a client whose region is us-east-1, or that was given none, signs uploads with
# Signature Version 4 but presigned links with Version 2, also for another vendor's endpoint_url. Any other region,
# "auto" among them, gives Version 4 links. Storage that only knows Version 4 takes the upload and refuses the link.
#
# Guessed before: Version 4 throughout, as AWS retired Version 2 for new buckets in 2020.
# Seen 2026-11-27 (Python 3.11):
#   us-east-1 upload: AWS4-HMAC-SHA256, link: AWSAccessKeyId, Expires, Signature
#   no region upload: AWS4-HMAC-SHA256, link: AWSAccessKeyId, Expires, Signature
#   auto upload: AWS4-HMAC-SHA256, link: X-Amz-Algorithm, X-Amz-Credential, X-Amz-Date, X-Amz-Expires, X-Amz-Signature, X-Amz-SignedHeaders
# Remedy: Config(signature_version="s3v4").
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet boto3==1.44.8 botocore==1.44.8
cat >"$folder/try.py" <<'PYTHON'
import urllib.parse

import boto3

for name in ("us-east-1", None, "auto"):
    client = boto3.client(
        "s3",
        endpoint_url="https://storage.example.org",
        region_name=name,
        aws_access_key_id="key",
        aws_secret_access_key="secret",
    )
    signed = []

    def keep(request, **_):
        # Returning an answer here keeps the request from being sent.
        signed.append(request.headers["Authorization"])
        return __import__("botocore.awsrequest").awsrequest.AWSResponse(request.url, 200, {}, None)

    client.meta.events.register("before-send.s3.PutObject", keep)
    try:
        client.put_object(Bucket="bucket", Key="picture.png", Body=b"")
    except Exception:
        pass  # the answer above has no body to read
    link = client.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": "picture.png"})
    query = ", ".join(sorted(urllib.parse.parse_qs(urllib.parse.urlsplit(link).query)))
    way = signed[0].decode() if isinstance(signed[0], bytes) else signed[0]
    print(f"{name or 'no region'} upload: {way.split()[0]}, link: {query}")
PYTHON
env -i PATH="$PATH" HOME="$folder" "$folder/venv/bin/python" "$folder/try.py" | tee "$folder/out"
diff "$folder/out" - <<'SEEN'
us-east-1 upload: AWS4-HMAC-SHA256, link: AWSAccessKeyId, Expires, Signature
no region upload: AWS4-HMAC-SHA256, link: AWSAccessKeyId, Expires, Signature
auto upload: AWS4-HMAC-SHA256, link: X-Amz-Algorithm, X-Amz-Credential, X-Amz-Date, X-Amz-Expires, X-Amz-Signature, X-Amz-SignedHeaders
SEEN
