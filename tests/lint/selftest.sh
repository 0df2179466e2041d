#!/bin/bash
# SPDX-License-Identifier: MIT
#
# selftest.sh ROOT PROGRAM LIBRARY: each lint finds what is planted for it in a copy of the tree.
# A lint that finds nothing proves nothing.
set -u
root=$(cd "${1:?usage: selftest.sh ROOT PROGRAM LIBRARY}" && pwd) || exit 2
program=${2:?} library=${3:?}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
failed=0

fresh() {
	rm -rf "${copy:?}/tree"
	mkdir "$copy/tree"
	(cd "$root" && tar -c --exclude=./build* --exclude=./.git --exclude=corpus .) | tar -x -C "$copy/tree"
}

lint() { # lint NAME: its output; the exit code is its own
	case $1 in
	docs) /usr/bin/python3 "$root/tests/lint/docs.py" "$copy/tree" "$program" ;;
	symbols) bash "$root/tests/lint/symbols.sh" "$copy/tree" "$library" ;;
	*) bash "$root/tests/lint/$1.sh" "$copy/tree" ;;
	esac
}

planted() { # planted LINT WHAT MUST-SAY SED-SCRIPT FILE, or with '+' as script: append WHAT's line
	local name=$1 what=$2 say=$3 script=$4 file=$copy/tree/$5 said code before
	before=$(cat "$file")
	if [[ $script == +* ]]; then
		printf '%s\n' "${script#+}" >>"$file"
	else
		sed -i -E "$script" "$file"
	fi
	if [[ $before == "$(cat "$file")" ]]; then
		echo "FAILED $name: could not plant: $what"
		failed=1
		return
	fi
	said=$(lint "$name" 2>&1)
	code=$?
	printf '%s\n' "$before" >"$file"
	if ((code == 0)) || ! grep -qE -- "$say" <<<"$said"; then
		echo "FAILED $name: not caught: $what"
		echo "$said" | head -n 5
		failed=1
	else
		echo "caught by $name: $what"
	fi
}

fresh
planted layers 'store calls up to the funnel' 'server/store includes' \
	'+#include "server/funnel/queue.h"' server/store/stmt.c
planted layers 'base knows the store' 'server/base includes' \
	'+#include "server/store/store.h"' server/base/log.c
planted layers 'the client knows the server' 'client includes' \
	'+#include "server/base/clock.h"' client/engine.c
planted layers 'proto knows the client' 'proto includes' \
	'+  #  include "client/engine.h"' proto/frame.c
planted layers 'the funnel knows admin' 'server/funnel includes' \
	'+#include "server/admin/show.h"' server/funnel/method.c
planted layers 'an include that is not rooted' 'not a path from the root' \
	'+#include "queue.h"' server/funnel/group.c
planted layers 'SQLite in the funnel' '<sqlite3.h> belongs' \
	'+#include <sqlite3.h>' server/funnel/group.c
planted layers 'SQLite in a command that only writes' '<sqlite3.h> belongs' \
	'+#include <sqlite3.h>' server/cli/exec.c
planted layers 'libevent outside the loop' '<event2/util.h> belongs' \
	'+#include <event2/util.h>' server/funnel/peer.c
planted layers 'jansson in the funnel' '<jansson.h> belongs' \
	'+#include <jansson.h>' server/funnel/reply.c
planted layers 'curl in base' '<curl/curl.h> belongs' \
	'+#include <curl/curl.h>' server/base/config.c
planted layers 'inih in a command' '<ini.h> belongs' '+#include <ini.h>' server/cli/serve.c
planted layers 'systemd in the funnel' '<systemd/sd-daemon.h> belongs' \
	'+#include <systemd/sd-daemon.h>' server/funnel/funnel.c
planted headers 'a header that needs another' 'queue.h: does not compile' \
	'+static inline struct nothing_known a_function(void) { return other(); }' server/funnel/queue.h
planted headers 'a header without a guard' 'clock.h: does not compile' \
	'/pragma once/d; $a struct twice_defined { int a; };' server/base/clock.h
planted symbols 'a declaration that is not exported' 'lf_planted' \
	'+int lf_planted(int a);' client/litefunnel.h
planted symbols 'a name in the version script that does not exist' 'lf_planted' \
	's/^(\tlf_close;)/\1\n\tlf_planted;/' client/litefunnel.map
planted symbols 'an exported name that is not declared' 'not in the header: lf_version' \
	's/\blf_version\(/other_version(/' client/litefunnel.h
planted docs 'a setting missing in the sample config' 'queue_max .*sample' \
	'/^#?queue_max =/d' deploy/litefunnel.conf.sample
planted docs 'a setting of the sample config that does not exist' 'planted_setting' \
	'+#planted_setting = 1' deploy/litefunnel.conf.sample
planted docs 'a setting missing in the man page' 'queue_max .*conf\(5\)' \
	's/^(\.It [A-Z][a-z]) queue_max\b.*/\1 something_else/' deploy/man/litefunnel.conf.5
planted docs 'a method missing in PROTOCOL.md' 'method describe .*PROTOCOL' \
	'/^\| `describe` \| request/d' proto/PROTOCOL.md
planted docs 'an error code missing in PROTOCOL.md' 'error code guard .*PROTOCOL' \
	'/^\| `guard` \|/d' proto/PROTOCOL.md
planted docs 'a command missing in the man page' 'command adopt .*litefunnel\(1\)' \
	's/\badopt\b/other/g' deploy/man/litefunnel.1
planted words 'a note to oneself' 'clock.c' "+/* TO""DO: later */" server/base/clock.c
planted words 'a path of a machine' 'clock.c' "+/* see /wo""rk/main/x */" server/base/clock.c
if [[ -f $copy/tree/README.md ]]; then
	planted docs 'a command missing in README.md' 'command adopt .*README' \
		's/\badopt\b/other/g' README.md
	planted docs 'a snippet that nothing runs' 'not marked' "+\`\`\`sh"$'\n'"ls"$'\n'"\`\`\`" README.md
fi
exit $failed
