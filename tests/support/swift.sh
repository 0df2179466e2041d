#!/bin/bash
# SPDX-License-Identifier: MIT
#
# swift.sh: OpenStack Swift of Debian on loopback, with its S3 interface: a real store that checks
# signatures and knows no If-None-Match on a PUT. One account, container, object and proxy server, in a
# directory of their own, as user swift.
#
# Prints a line when it is ready: the endpoint, the access key, the secret key. Runs until its standard
# input ends, then stops what it started and removes everything. As root. Its packages are packages_swift
# of packages.sh.
set -u
umask 022
dir=$(mktemp -d /tmp/litefunnel-swift-XXXXXX) && chmod 755 "$dir" || exit 1
started=()
stop() {
	trap - EXIT
	if ((${#started[@]} > 0)); then
		kill -KILL "${started[@]}" 2>/dev/null
		wait "${started[@]}" 2>/dev/null
	fi
	rm -rf "$dir"
}
trap stop EXIT
trap 'exit 1' TERM INT HUP
fail() {
	echo "swift.sh: $1" >&2
	tail -n 20 "$dir"/log/* >&2
	exit 1
}
read -r account container object proxy < <(/usr/bin/python3 - <<'PYTHON'
import socket
held = [socket.socket() for _ in range(4)]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PYTHON
)

mkdir -p "$dir"/{etc,log,disks/d1,run}
common="bind_ip = 127.0.0.1
workers = 0
user = swift
swift_dir = $dir/etc
log_address = $dir/run/no-log"
cat >"$dir/etc/swift.conf" <<CONF
[swift-hash]
swift_hash_path_prefix = litefunnel
swift_hash_path_suffix = litefunnel
[storage-policy:0]
name = default
default = yes
CONF
for kind in account container object; do
	port=${!kind}
	(
		cd "$dir/etc" &&
			swift-ring-builder "$kind.builder" create 4 1 0 &&
			swift-ring-builder "$kind.builder" add "r1z1-127.0.0.1:$port/d1" 1 &&
			swift-ring-builder "$kind.builder" rebalance
	) >"$dir/log/$kind.ring" 2>&1
	[[ -e $dir/etc/$kind.ring.gz ]] || fail "the ring of $kind"
	cat >"$dir/etc/$kind-server.conf" <<CONF
[DEFAULT]
$common
bind_port = $port
devices = $dir/disks
mount_check = false
disable_fallocate = true
[pipeline:main]
pipeline = $kind-server
[app:$kind-server]
use = egg:swift#$kind
CONF
done
cat >"$dir/etc/proxy-server.conf" <<CONF
[DEFAULT]
$common
bind_port = $proxy
[pipeline:main]
pipeline = catch_errors gatekeeper proxy-logging cache listing_formats bulk s3api tempauth slo dlo proxy-server
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:s3api]
use = egg:swift#s3api
s3_acl = no
location = us-east-1
auth_pipeline_check = false
[filter:tempauth]
use = egg:swift#tempauth
user_lf_key = not-a-secret .admin
# There is none, and it is not missed; but s3api wants to be told of one.
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
CONF
chown -R swift: "$dir"

for kind in account container object proxy; do
	setpriv --reuid swift --regid swift --clear-groups --pdeathsig KILL \
		"swift-$kind-server" "$dir/etc/$kind-server.conf" >"$dir/log/$kind" 2>&1 </dev/null &
	started+=($!)
done
answers() { # PORT
	(: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}
for kind in account container object proxy; do
	for ((i = 0; i < 600; i++)); do
		answers "${!kind}" && break
		sleep 0.1
	done
	answers "${!kind}" || fail "the $kind server does not come up"
done
echo "http://127.0.0.1:$proxy lf:key not-a-secret"
cat >/dev/null
