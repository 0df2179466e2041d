#!/bin/bash
# SPDX-License-Identifier: MIT
#
# layers.sh ROOT: includes are rooted, and point along the arrows of the design only:
#
#	cli → everything    admin → funnel → store → base    ship → base    client → proto ← funnel
#
# and a foreign library appears only in the files that wrap it. Prints each breach.
set -u
cd "${1:?usage: layers.sh ROOT}" || exit 2

# The rooms that a room may include from, itself first.
declare -A arrows=(
	[proto]='proto'
	[client]='client proto'
	[server/base]='server/base'
	[server/store]='server/store server/base'
	[server/funnel]='server/funnel server/store server/base proto'
	[server/ship]='server/ship server/base'
	[server/admin]='server/admin server/funnel server/store server/base proto'
	[server/cli]='server/cli server/admin server/ship server/funnel server/store server/base client proto'
	[server]='server/cli'
)

# header=files that may include it, as patterns.
fences=(
	'event2/*=server/funnel/loop.c'
	'event.h=server/funnel/loop.c'
	'sqlite3.h=server/store/* client/reader.c server/cli/adopt.c server/cli/leave.c server/cli/halt.c server/cli/query.c server/cli/version.c server/cli/status.c server/cli/bench_* server/cli/inspect.c server/cli/backup.c'
	'curl/*=server/ship/s3_http.c server/ship/heartbeat.c'
	'openssl/*=server/ship/* server/cli/*'
	'lz4*=server/ship/ltx*'
	'ini.h=server/base/config_read.c'
	'systemd/*=server/base/notify.c'
	'jansson.h=server/base/json* server/cli/*'
)

breaches=0
breach() {
	echo "$1"
	breaches=$((breaches + 1))
}

matches() { # matches WORD PATTERN...
	local word=$1 pattern
	shift
	for pattern in "$@"; do
		# shellcheck disable=SC2053 # a pattern is meant
		[[ $word == $pattern ]] && return 0
	done
	return 1
}

own_include() { # own_include FILE LINE HEADER
	local room=${1%/*} target=${3%/*}
	if [[ $3 != */* || ! -f $3 ]]; then
		breach "$1:$2: \"$3\" is not a path from the root of the tree"
	elif [[ -z ${arrows[$room]+known} ]]; then
		breach "$1:$2: $room is no room of the design"
	elif [[ " ${arrows[$room]} " != *" $target "* ]]; then
		breach "$1:$2: $room includes \"$3\", but may include from: ${arrows[$room]}"
	fi
}

foreign_include() { # foreign_include FILE LINE HEADER
	local fence files
	for fence in "${fences[@]}"; do
		read -r -a files <<<"${fence#*=}"
		if matches "$3" "${fence%%=*}" && ! matches "$1" "${files[@]}"; then
			breach "$1:$2: <$3> belongs into ${fence#*=}"
		fi
	done
}

set -f # patterns stay patterns
while IFS=: read -r file line include; do
	if [[ $include =~ ^[[:space:]]*#[[:space:]]*include[[:space:]]*\"([^\"]*)\" ]]; then
		own_include "$file" "$line" "${BASH_REMATCH[1]}"
	elif [[ $include =~ ^[[:space:]]*#[[:space:]]*include[[:space:]]*\<([^\>]*)\> ]]; then
		foreign_include "$file" "$line" "${BASH_REMATCH[1]}"
	fi
done < <(grep -rnE --include='*.[ch]' '^[[:space:]]*#[[:space:]]*include' proto client server)

((breaches == 0))
