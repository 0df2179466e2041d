#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
#	bash tests/fuzz/fuzz.sh BUILD LOGS SECONDS MESSAGES
#
# Fuzzes with the harnesses of BUILD (meson setup -Dfuzz=true): fuzz_connection for so many seconds,
# fuzz_message beside it until so many messages were tried, for twice that time at most. Prints how many
# executions there were. What is found is kept in LOGS; the exit code is 0 only if there was nothing, and
# if so many messages were tried. FUZZ_SEED is printed,
# and taken if it is set.
set -u
build=$1 logs=$2 seconds=$3 messages=$4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
seed=${FUZZ_SEED:-$((RANDOM * 32768 + RANDOM + 1))}
work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
echo "FUZZ_SEED=$seed"

fuzz() { # fuzz NAME OPTION...: in the background
	local name=$1
	shift
	mkdir "$work/$name" && cp -r "$here/corpus/$name" "$work/$name.corpus" || return 2
	# Entropic scheduling costs more than an execution; leaks are for the replay of the corpus.
	nice -n 10 "$build/tests/fuzz/fuzz_$name" -seed="$seed" -entropic=0 \
		-detect_leaks=0 -timeout=60 -rss_limit_mb=3000 -print_final_stats=1 \
		-artifact_prefix="$logs/fuzz_$name-" "$@" "$work/$name" "$work/$name.corpus" \
		>"$work/$name.log" 2>&1 &
}

fuzz connection -max_total_time="$seconds" -max_len=700 -len_control=20 -dict="$here/connection.dict"
connection=$!
fuzz message -max_total_time=$((2 * seconds)) -max_len=2048 -runs="$messages"
message=$!

bad=0
wait "$connection" || bad=1
wait "$message" || bad=1
total=0
for name in connection message; do
	count=$(sed -n 's/^stat::number_of_executed_units: *//p' "$work/$name.log")
	echo "fuzz_$name: ${count:-0} executions"
	total=$((total + ${count:-0}))
	if [[ $name == message ]] && ((${count:-0} < messages)); then
		echo "fewer than $messages messages in $((2 * seconds)) s"
		bad=1
	fi
	if ((bad)); then
		tail -n 50 "$work/$name.log"
	fi
done
echo "$total executions, $( ((bad)) && echo "with findings: $logs" || echo "no findings")"
exit "$bad"
