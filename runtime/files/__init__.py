"""What `bake` and a worker share: fetching over HTTP, and knowing a file before it is believed.

Standard library and `requests` only. A worker names a file (`addresses.resolve`), fetches it
(`fetch.fetch_url`, under a `policy.HostPolicy`), and looks at it (`safetensors.read_header`,
`lora_kinds.recognise_lora`). Everything that fails raises `errors.WeightsError`, whose `kind` a program can
compare and whose text is fit to be shown: no query, no token, no body. `bake` downloads over several
connections, and keeps what came: bake/weights/transfer.
"""
