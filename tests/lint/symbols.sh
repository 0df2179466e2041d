#!/bin/bash
# SPDX-License-Identifier: MIT
#
# symbols.sh ROOT LIBRARY: the shared library exports what its version script names, and that is
# what litefunnel.h declares. Prints the differences.
set -u
root=${1:?usage: symbols.sh ROOT LIBRARY}
library=${2:?usage: symbols.sh ROOT LIBRARY}
sorted() { LC_ALL=C sort -u; }

exported=$(nm --dynamic --defined-only --format=posix "$library" |
	awk '$2 != "A" { sub(/@.*/, "", $1); print $1 }' | sorted)
listed=$(sed -n '/global:/,/local:/p' "$root/client/litefunnel.map" | grep -oE '\<lf_[a-z0-9_]+' | sorted)
# Comments go first: they speak of functions too.
declared=$(tr '\n' ' ' <"$root/client/litefunnel.h" | sed -E 's|/\*([^*]\|\*+[^*/])*\*+/| |g' |
	grep -oE '\<lf_[a-z0-9_]+ *\(' | tr -d ' (' | sorted)

[[ -n $exported && -n $listed && -n $declared ]] || { echo "nothing to compare"; exit 1; }
bad=0
compare() { # compare NAME LIST NAME LIST
	local only
	only=$(LC_ALL=C comm -23 <(echo "$2") <(echo "$4"))
	if [[ -n $only ]]; then
		echo "in the $1, not in the $3:" $only
		bad=1
	fi
}
compare library "$exported" 'version script' "$listed"
compare 'version script' "$listed" library "$exported"
compare 'version script' "$listed" header "$declared"
compare header "$declared" 'version script' "$listed"
exit $bad
