"""What `bake` and a worker share: fetching over HTTP, and knowing a file before it is believed.

Standard library and `requests` only. A worker uses four calls:

    from runtime.files.addresses import resolve
    from runtime.files.fetch import fetch_url
    from runtime.files.http import Timeouts
    from runtime.files.lora_kinds import recognise_lora
    from runtime.files.policy import HostPolicy
    from runtime.files.safetensors import read_header

    # https only; every address of every hop must be public; pinned against DNS rebinding
    fetched = fetch_url(
        resolve("civitai:368189"),
        folder / "name.safetensors",
        policy=HostPolicy(hosts=("civitai.com", ".r2.cloudflarestorage.com")),   # None: any public host
        max_bytes=1 << 30,
        timeouts=Timeouts(connect_s=10, stall_s=30, total_s=120),
    )                                       # Fetched(path, size_bytes, sha256, url)
    header = read_header(fetched.path)
    facts = recognise_lora(header.tensors, header.metadata)     # None: it is no LoRA

Tests on loopback pass `HostPolicy(loopback=True)`. Everything that fails raises
`runtime.files.errors.WeightsError`, whose `kind` a program can compare and whose text is fit to be
shown: no query, no token, no body. `bake` downloads over several connections, and keeps what came:
bake/weights/transfer.
"""
