"""Runs OpenStack Swift with its S3 interface: `.venv-swift/bin/python tests/s3_server.py FOLDER REGION...`.

A real server, whole in one process: account, container and object servers, and one S3 proxy for each region that
it shall stand for. Prints one line of JSON: the port of each region. Ends when its standard input does.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import eventlet  # type: ignore[import-not-found]

eventlet.monkey_patch()

import eventlet.tpool  # type: ignore[import-not-found]  # noqa: E402
import eventlet.wsgi  # type: ignore[import-not-found]  # noqa: E402
from swift.common import utils  # type: ignore[import-not-found]  # noqa: E402
from swift.common.ring import RingBuilder  # type: ignore[import-not-found]  # noqa: E402
from swift.common.wsgi import loadapp  # type: ignore[import-not-found]  # noqa: E402

# Hosts that the S3 proxy takes a bucket's name in front of.
DOMAINS = "s3.eu-west-2.amazonaws.com,fra1.digitaloceanspaces.com,storage.googleapis.com"
PROXY = """[DEFAULT]
swift_dir = {folder}
[pipeline:main]
pipeline = catch_errors gatekeeper s3api tempauth proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 300
node_timeout = 300
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:tempauth]
use = egg:swift#tempauth
user_test_owner = s3cret .admin
user_test_guest = s3cret
[filter:s3api]
use = egg:swift#s3api
location = {region}
storage_domain = {domains}
"""
STORAGE = """[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
conn_timeout = 300
node_timeout = 300
"""
# Swift gives its own servers half a second to take a connection, which a busy machine does not keep.


def main(folder: Path, regions: list[str]) -> None:
    (folder / "devices" / "disk").mkdir(parents=True)
    (folder / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = tests\n")
    utils.set_swift_dir(str(folder))
    servers = {}
    for kind in ("account", "container", "object"):
        listener, port = listen()
        builder = RingBuilder(part_power=1, replicas=1, min_part_hours=0)
        address = {"ip": "127.0.0.1", "port": port, "region": 1, "zone": 1}
        builder.add_dev({**address, "device": "disk", "weight": 1})
        builder.rebalance()
        builder.get_ring().save(str(folder / f"{kind}.ring.gz"))
        servers[kind] = (listener, STORAGE.format(folder=folder, kind=kind))
    ports = {}
    for region in regions:
        listener, ports[region] = listen()
        servers[region] = (listener, PROXY.format(folder=folder, region=region, domains=DOMAINS))
    for name, (listener, config) in servers.items():
        file = folder / f"{name}.conf"
        file.write_text(config)
        eventlet.spawn(eventlet.wsgi.server, listener, loadapp(str(file)), log_output=False)
    print(json.dumps(ports), flush=True)
    eventlet.tpool.execute(sys.stdin.read)


def listen() -> tuple[object, int]:
    listener = eventlet.listen(("127.0.0.1", 0))
    return listener, listener.getsockname()[1]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
