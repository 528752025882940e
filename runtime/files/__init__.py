"""What `bake` and a worker share: fetching weights over HTTP, and knowing a file before it is believed.

Standard library and `requests` only. A worker uses three calls:

    from runtime.files.fetch import fetch_url
    from runtime.files.http import Timeouts
    from runtime.files.policy import HostPolicy
    from runtime.files.safetensors import read_header
    from runtime.files.families import recognise

    # https only; every address of every hop must be public; pinned against DNS rebinding
    fetched = fetch_url(
        url,
        folder / "name.safetensors",
        policy=HostPolicy(hosts=("civitai.com", ".r2.cloudflarestorage.com")),   # None: any public host
        max_bytes=1 << 30,
        timeouts=Timeouts(connect_s=10, stall_s=30, total_s=120),
    )                                       # Fetched(path, size_bytes, sha256, url)
    facts = recognise(read_header(fetched.path))
                                            # Recognised(role, family, kind, precision, has_ema, size_bytes)

Tests on loopback pass `HostPolicy(loopback=True)`. Everything that fails raises
`runtime.files.errors.WeightsError`, whose `kind` a program can compare and whose text is fit to be
shown: no query, no token, no body. An exception from `on_bytes` cancels a download; its bytes stay
beside the target (`.part`, `.json`, `.lock`) and are used by the next call.
"""
