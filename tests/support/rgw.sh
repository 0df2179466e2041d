#!/bin/bash
# SPDX-License-Identifier: MIT
#
# rgw.sh: a real S3 server on loopback, radosgw of Debian: it checks signatures and hashes of bodies,
# and keeps If-None-Match. One monitor, one OSD in memory, one gateway, in a directory of their own.
#
# Prints a line when it is ready (after about ten seconds): the endpoint, the access key, the secret
# key. Runs until its standard input ends, then stops what it started and removes everything. As root:
# the daemons run as user ceph.
set -u
umask 022
ports() { # so many free ports
	/usr/bin/python3 - "$1" <<'PYTHON'
import socket, sys
held = [socket.socket() for _ in range(int(sys.argv[1]))]
for one in held:
    one.bind(("127.0.0.1", 0))
print(*(one.getsockname()[1] for one in held))
PYTHON
}

dir=$(mktemp -d /tmp/litefunnel-rgw-XXXXXX) && chmod 755 "$dir" || exit 1
read -r mon_port rgw_port < <(ports 2)
access_key=litefunnel secret_key=not-a-secret+in/tests
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
	echo "rgw.sh: $1" >&2
	tail -n 20 "$dir"/log/*.out "$dir"/log/*.log >&2
	exit 1
}

mkdir "$dir"/{mon,osd,run,log,rgw}
fsid=$(cat /proc/sys/kernel/random/uuid)
cat >"$dir/ceph.conf" <<CONF
[global]
fsid = $fsid
mon host = [v2:127.0.0.1:$mon_port]
mon initial members = a
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 3221225472
osd memory target = 939524096
osd op num shards = 1
osd op num threads per shard = 1
mon allow pool size one = true
mon max pg per osd = 1000
# It stands in for a store, and keeps nothing: how full the disk is does not matter to it.
mon data avail warn = 0
mon data avail crit = -1
run dir = $dir/run
admin socket = $dir/run/\$name.asok
log file = $dir/log/\$name.log
mon data = $dir/mon
osd data = $dir/osd
[client.rgw]
# Its default wants secure connections, which there are none of without keys: it would wait for ever.
ms mon client mode = crc secure
rgw data = $dir/rgw
rgw frontends = beast endpoint=127.0.0.1:$rgw_port
rgw thread pool size = 16
rgw enable apis = s3
rgw gc max objs = 7
keyring = $dir/none
CONF
monmaptool --create --addv a "[v2:127.0.0.1:$mon_port]" --fsid "$fsid" "$dir/monmap" \
	>"$dir/log/monmap.log" 2>&1 || fail "monmaptool"
chown -R ceph: "$dir"

as_ceph() ( # NAME PROGRAM ARGUMENT...: runs it, its output in a log
	name=$1
	shift
	exec setpriv --reuid ceph --regid ceph --clear-groups --pdeathsig KILL \
		"$@" -c "$dir/ceph.conf" >"$dir/log/$name.out" 2>&1 </dev/null
)
start() { # the same, not waited for
	as_ceph "$@" &
	started+=($!)
}
ceph_says() { timeout 10 ceph -c "$dir/ceph.conf" "$@" 2>/dev/null; }
until_true() { # WHAT COMMAND...: waits a minute for the daemon that was started last
	local what=$1 by=$((SECONDS + 60))
	shift
	while ((SECONDS < by)); do
		"$@" && return 0
		kill -0 "${started[-1]}" 2>/dev/null || fail "$what is gone"
		sleep 0.1
	done
	fail "$what does not come up"
}
mon_is_up() { ceph_says mon stat >/dev/null; }
osd_is_up() { ceph_says osd stat | grep -q '1 up'; }
rgw_is_up() { (: <"/dev/tcp/127.0.0.1/$rgw_port") 2>/dev/null; }

as_ceph mkfs-mon ceph-mon --mkfs -i a --monmap "$dir/monmap" || fail "the monitor's directory"
start mon ceph-mon -f -i a
until_true "the monitor" mon_is_up
osd=$(cat /proc/sys/kernel/random/uuid)
ceph_says osd new "$osd" >/dev/null || fail "a new OSD"
as_ceph mkfs-osd ceph-osd -i 0 --mkfs --osd-uuid "$osd" || fail "the OSD's directory"
start osd ceph-osd -f -i 0
until_true "the OSD" osd_is_up
start rgw radosgw -f -n client.rgw
until_true "the gateway" rgw_is_up
timeout 60 radosgw-admin -c "$dir/ceph.conf" user create --uid=litefunnel --display-name=litefunnel \
	--access-key="$access_key" --secret-key="$secret_key" >"$dir/log/user.out" 2>&1 ||
	fail "the user"
echo "http://127.0.0.1:$rgw_port $access_key $secret_key"
cat >/dev/null
