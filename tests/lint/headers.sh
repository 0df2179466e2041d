#!/bin/bash
# SPDX-License-Identifier: MIT
#
# headers.sh ROOT: every header compiles alone, and twice. Prints each that does not.
set -u
cd "${1:?usage: headers.sh ROOT}" || exit 2
read -r -a cc <<<"${CC:-cc}"
read -r -a flags <<<"$(pkg-config --cflags sqlite3 msgpack jansson 2>/dev/null)"
bad=0
while IFS= read -r header; do
	if ! printf '#include "%s"\n#include "%s"\n' "$header" "$header" |
		"${cc[@]}" -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror -I. "${flags[@]}" \
			-fsyntax-only -x c - 2>&1; then
		echo "$header: does not compile alone"
		bad=1
	fi
done < <(find proto client server -name '*.h' | sort)
exit $bad
