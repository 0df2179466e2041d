#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# All tests, on a fresh Debian 12, as root, from a clean clone:
#
#	bash tests/run.sh [--fast] [--soak] [--stage NAME]... [--list]
#
#	--fast         one compiler and no sanitizers: the stages of the gcc build
#	--soak         the long forms of the system tests
#	--stage NAME   this stage and what it needs; may be given several times
#	--list         the stages, and what each needs
#
# Installs the packages that are missing, builds below build/, and runs the stages, as many at a time
# as there are processors. Logs stay in build/logs/. The last line is `N passed, M failed`; the exit
# code is 0 only if M is 0. A test that was skipped is named before that line.
set -u
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
exec </dev/null
# shellcheck source=tests/support/packages.sh
source tests/support/packages.sh
export DEBIAN_FRONTEND=noninteractive PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8
# A shell's own settings must not decide what is built or tested.
unset "${!LITEFUNNEL_@}" CFLAGS CPPFLAGS LDFLAGS

root=$PWD
logs=$root/build/logs
python=/usr/bin/python3
stage_seconds_max=1500
test_seconds_told=600 # a test that takes longer is named in the log, with where it stands
fuzz_seconds=600
declare -A campaign=([kills]=1000 [restarts]=1000 [ooms]=50 [programs]=2000 [images]=20000 [faults]=61)
pytest_options=()
jobs_max=$(nproc)

# ---- the stages: name, what it needs, in the order in which they should begin

stages=(
	'build-gcc:'
	'build-asan:'
	'system-gcc:build-gcc'
	'build-tsan:'
	'system-asan:build-asan'
	'build-fuzz:'
	'fuzz:build-fuzz'
	'build-clang:'
	'system-tsan:build-tsan'
	'crash:build-gcc'
	'faults-asan:build-asan'
	'campaign-kills:build-gcc'
	'campaign-restarts:build-gcc'
	'campaign-oracle:build-gcc'
	'campaign-powerloss:build-gcc'
	'unit-gcc:build-gcc'
	'unit-asan:build-asan'
	'unit-tsan:build-tsan'
	'unit-clang:build-clang'
	'lint:build-gcc'
	'mutants:build-gcc'
	'format:'
	'tidy:build-clang'
	'examples:build-gcc'
	'install:build-gcc'
	'leaks:build-gcc'
	'ship:build-gcc'
	'quickstart:build-gcc'
	'fair:build-gcc'
)
fast=(build-gcc unit-gcc lint format system-gcc examples install)
exclusive=(fair) # runs when nothing else does: it measures

# Each stage is a function stage_NAME or a family stage_FAMILY KIND. It prints, and leaves its counts by
# count_passed, count_failed, count_skipped; without any, its exit code counts as one test.

count() { printf '%s %s\n' "$1" "$2" >>"$logs/$stage.counts"; }

# Result files of meson and of pytest, as counts.
count_meson() {
	"$python" - "$1" <<'PYTHON' >>"$logs/$stage.counts"
import json, sys
for line in open(sys.argv[1], encoding="utf-8"):
    test = json.loads(line)
    if test["result"] == "OK":
        print("passed 1")
    elif test["result"] == "SKIP":
        print("skipped", test["name"])
    else:
        print("failed 1")
PYTHON
}

count_pytest() {
	"$python" - "$1" <<'PYTHON' >>"$logs/$stage.counts"
import sys
import xml.etree.ElementTree as tree
for case in tree.parse(sys.argv[1]).iter("testcase"):
    kinds = {child.tag: child for child in case}
    if "skipped" in kinds:
        why = (kinds["skipped"].get("message") or "").splitlines()[:1]
        print("skipped", f'{case.get("classname")}.{case.get("name")}:', *why)
    else:
        print("failed 1" if kinds.keys() & {"failure", "error"} else "passed 1")
PYTHON
}

stage_build() { # stage_build KIND
	local dir=build/$1 options=()
	case $1 in
	gcc) options=(--buildtype=debugoptimized) ;;
	clang) options=(--buildtype=debugoptimized) ;;
	asan) options=(--buildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false) ;;
	tsan) options=(--buildtype=debugoptimized -Db_sanitize=thread -Db_lundef=false) ;;
	fuzz) options=(--buildtype=debugoptimized -Db_sanitize=address,undefined -Db_lundef=false
		-Dfuzz=true) ;;
	esac
	if [[ ! -e $dir/build.ninja ]]; then
		rm -rf "$dir"
		CC=$([[ $1 == clang || $1 == fuzz ]] && echo clang || echo gcc) \
			meson setup --werror "${options[@]}" "$dir" || return 1
	fi
	ninja -j "$jobs_max" -C "$dir"
}

run_meson() { # run_meson KIND OPTION...
	local kind=$1
	shift
	meson test -C "build/$kind" --no-rebuild --print-errorlogs --logbase "$stage" \
		--timeout-multiplier 4 "$@"
	local code=$?
	count_meson "build/$kind/meson-logs/$stage.json"
	return $code
}

sanitizer_options() {
	export ASAN_OPTIONS=detect_leaks=1 TSAN_OPTIONS=second_deadlock_stack=1
	export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
}

stage_unit() {
	sanitizer_options
	run_meson "$1" --no-suite lint --no-suite crash
}

stage_lint() { run_meson gcc --suite lint; }

# Power loss and failing I/O below the store; then bugs planted in a copy, each of which must be caught.
stage_crash() { run_meson gcc --suite crash; }
stage_mutants() { bash tests/crash/mutants.sh; }

# The failing calls once more under a sanitizer, where they take long: each so-manieth, from a random one on.
stage_faults() {
	local what first
	sanitizer_options
	for what in io malloc; do
		first=$((RANDOM % campaign[faults] + 1))
		echo "faults --what $what --stride ${campaign[faults]} --first $first"
		"build/$1/tests/crash/faults" --what "$what" --stride "${campaign[faults]}" --first "$first" || return 1
	done
}

# The machines at full size; the other stages run short forms of them. Each prints its seed.
stage_campaign() {
	local bin=build/gcc/server/litefunnel ooms=()
	export LITEFUNNEL_BIN=$root/$bin
	case $1 in
	kills)
		# Without a control group nobody can be out of memory: the log says so.
		if "$python" tests/support/cgroup.py; then
			ooms=(--ooms "${campaign[ooms]}")
		fi
		"$python" tests/history/kills.py --kills "${campaign[kills]}" "${ooms[@]}"
		;;
	restarts) "$python" tests/history/kills.py --kills 0 --restarts "${campaign[restarts]}" ;;
	oracle) "$python" tests/oracle/differential.py --programs "${campaign[programs]}" ;;
	powerloss) build/gcc/tests/crash/powerloss --images "${campaign[images]}" --seed 5 ;;
	esac
}

# The state machine of connections for the whole time; beside it messages, until there were so many.
stage_fuzz() { bash tests/fuzz/fuzz.sh build/fuzz "$logs" "$fuzz_seconds" 5500000; }

run_pytest() { # run_pytest KIND PYTEST-ARGUMENT...
	local kind=$1 report=$logs/$stage.xml
	shift
	rm -f "$report"
	# Other users run it too, and a clone may lie where they cannot go.
	local reachable
	reachable=$(mktemp -d) && chmod 755 "$reachable" || return 1
	cp "build/$kind/server/litefunnel" "$reachable" || return 1
	LITEFUNNEL_BIN=$reachable/litefunnel LITEFUNNEL_BUILD=$root/build/$kind \
		"$python" -m pytest -p no:cacheprovider -q -ra --durations=10 --junitxml="$report" \
		-o faulthandler_timeout="$test_seconds_told" \
		"${pytest_options[@]}" "$@"
	local code=$?
	rm -rf "$reachable"
	if [[ -s $report ]]; then
		count_pytest "$report"
	fi
	return $code
}

# Tests with a stage of their own.
apart=(tests/system/test_leaks.py tests/system/test_examples.py tests/system/test_fair.py
	tests/ship/test_stock.py tests/ship/test_stock_daemon.py tests/ship/test_from_stock.py
	tests/ship/test_replica_kinds.py tests/ship/test_replica_faults.py
	tests/ship/test_compaction.py tests/ship/test_replica_answers.py tests/ship/test_restore_s3.py
	tests/ship/test_unfenced.py)

stage_system() {
	local dirs
	mapfile -t dirs < <(find tests -name 'test_*.py' -printf '%h\n' | sort -u)
	run_pytest "$1" -n 2 "${dirs[@]}" "${apart[@]/#/--ignore=}"
}

stage_leaks() { run_pytest gcc tests/system/test_leaks.py; }
# Beside stock Litestream, which is fetched into build/tools, and with a real S3 server.
stage_ship() {
	local server code
	coproc SERVER { bash tests/support/rgw.sh; }
	server=$SERVER_PID
	read -r LITEFUNNEL_TEST_S3 <&"${SERVER[0]}" || return 1
	export LITEFUNNEL_TEST_S3
	run_pytest gcc -n 2 tests/ship/test_stock.py tests/ship/test_stock_daemon.py \
		tests/ship/test_from_stock.py tests/ship/test_replica_kinds.py \
		tests/ship/test_replica_faults.py tests/ship/test_replica_answers.py \
		tests/ship/test_compaction.py tests/ship/test_restore_s3.py tests/ship/test_unfenced.py
	code=$?
	eval "exec ${SERVER[1]}>&-"
	wait "$server"
	return $code
}
stage_examples() { run_pytest gcc tests/system/test_examples.py; }
stage_fair() { run_pytest gcc -s tests/system/test_fair.py; }

stage_format() {
	local file bad=0
	while IFS= read -r file; do
		if clang-format --dry-run -Werror "$file"; then
			count passed 1
		else
			count failed 1
			bad=1
		fi
	done < <(find proto client server examples tests -name '*.[ch]' | sort)
	return $bad
}

stage_tidy() {
	find proto client server examples tests -name '*.c' | sort |
		xargs -P "$jobs_max" -n 4 clang-tidy -p build/clang --quiet
}

# What a user of the library does: install, and compile with pkg-config.
stage_install() {
	local where=$root/build/installed
	rm -rf "$where"
	meson install -C build/gcc --no-rebuild --destdir "$where" >/dev/null || return 1
	local config=(pkg-config --define-variable="prefix=$where/usr/local")
	PKG_CONFIG_PATH=$(dirname "$(find "$where" -name litefunnel.pc)")
	export PKG_CONFIG_PATH
	local flags
	read -r -a flags <<<"$("${config[@]}" --cflags litefunnel)"
	local libs
	read -r -a libs <<<"$("${config[@]}" --libs litefunnel)"
	gcc -std=c11 -D_GNU_SOURCE -Wall -Wextra -Werror "${flags[@]}" examples/write_one.c \
		-o "$where/write_one" "${libs[@]}" -lsqlite3 || return 1
	LD_LIBRARY_PATH=$(dirname "$(find "$where" -name liblitefunnel.so)")
	export LD_LIBRARY_PATH
	ldd "$where/write_one" | grep -q "liblitefunnel.so.0 => $where" || return 1
	local place
	place=$(mktemp -d) && chmod 750 "$place" || return 1
	"$where/usr/local/bin/litefunnel" run "$place/app.db" --create -- \
		"$where/write_one" "$place/app.db"
	local code=$?
	rm -rf "$place"
	return $code
}

stage_quickstart() {
	if [[ -e examples/quickstart.sh ]]; then
		bash examples/quickstart.sh
	fi
}

# ---- running them

needs_of() { # what the stage needs
	local entry
	for entry in "${stages[@]}"; do
		if [[ ${entry%%:*} == "$1" ]]; then
			echo "${entry#*:}"
			return 0
		fi
	done
	return 1
}

run_stage() { # in a child: runs the stage, leaves its counts
	stage=$1
	local began=$SECONDS code=0
	: >"$logs/$stage.counts"
	if declare -F "stage_$stage" >/dev/null; then
		set -- "stage_$stage"
	else
		set -- "stage_${stage%%-*}" "${stage#*-}"
	fi
	# A stage that hangs is a failure, not a silence.
	("$@") >"$logs/$stage.log" 2>&1 &
	local child=$!
	(
		trap 'kill "$!" 2>/dev/null; exit' TERM
		sleep "$stage_seconds_max" & wait "$!"
		echo "still running after $stage_seconds_max s: killed" >>"$logs/$stage.log"
		kill_tree "$child"
	) &
	local guard=$!
	wait "$child"
	code=$?
	kill "$guard" 2>/dev/null
	wait "$guard" 2>/dev/null
	if ! grep -q '^\(passed\|failed\) ' "$logs/$stage.counts" ||
		{ ((code != 0)) && ! grep -q '^failed ' "$logs/$stage.counts"; }; then
		count "$( ((code == 0)) && echo passed || echo failed)" 1
	fi
	echo "$((SECONDS - began))" >"$logs/$stage.seconds"
	return $code
}

kill_tree() {
	local child
	for child in $(ps -o pid= --ppid "$1"); do
		kill_tree "$child"
	done
	kill -KILL "$1" 2>/dev/null
}

sum() { # sum passed|failed FILE...
	local word=$1
	shift
	cat "$@" 2>/dev/null | awk -v word="$word" '$1 == word { n += $2 } END { print n + 0 }'
}

report() { # report STAGE: one line, and why if it failed
	local failed
	failed=$(sum failed "$logs/$1.counts")
	printf '%-12s %4d passed, %d failed, %d skipped  %4d s\n' "$1" "$(sum passed "$logs/$1.counts")" \
		"$failed" "$(grep -c '^skipped' "$logs/$1.counts")" "$(cat "$logs/$1.seconds")"
	if ((failed > 0)); then
		printf -- '---- %s, the end of its log:\n' "$1"
		tail -n 120 "$logs/$1.log"
		printf -- '---- end of %s\n' "$1"
	fi
}

wanted=()
while (($# > 0)); do
	case $1 in
	--fast) wanted+=("${fast[@]}") ;;
	--soak)
		pytest_options+=(--soak)
		packages_test+=("${packages_swift[@]}")
		stage_seconds_max=18000
		fuzz_seconds=14400
		campaign=([kills]=20000 [restarts]=20000 [ooms]=1000 [programs]=100000 [images]=500000 [faults]=1)
		;;
	--stage)
		needs_of "${2:-}" >/dev/null || { echo "no stage \"${2:-}\": try --list" >&2; exit 2; }
		wanted+=("$2")
		shift
		;;
	--list)
		printf '%s\n' "${stages[@]}"
		exit 0
		;;
	*)
		echo "usage: bash tests/run.sh [--fast] [--soak] [--stage NAME]... [--list]" >&2
		exit 2
		;;
	esac
	shift
done

mkdir -p "$logs"
find "$logs" -type f -delete
began=$SECONDS
if ! packages_install "${packages_build[@]}" "${packages_example[@]}" "${packages_test[@]}"; then
	echo "the packages cannot be installed"
	echo "0 passed, 1 failed"
	exit 1
fi
printf '%-12s %44d s\n' packages $((SECONDS - began))
printf 'free disk: %s below build, %s in /tmp\n' $(df -h --output=avail "$logs" /tmp | tail -n 2)

# What was asked for and all that it needs, in the order of the table.
declare -A state=() # waiting, running, passed, failed
for entry in "${stages[@]}"; do
	name=${entry%%:*}
	if ((${#wanted[@]} == 0)) || [[ " ${wanted[*]} " == *" $name "* ]]; then
		state[$name]=waiting
		if [[ -n ${entry#*:} ]]; then
			state[${entry#*:}]=waiting
		fi
	fi
done

declare -A running=() # pid -> stage
room_for() {
	local stage
	if ((${#running[@]} == 0)); then
		return 0
	fi
	for stage in "$1" "${running[@]}"; do
		if [[ " ${exclusive[*]} " == *" $stage "* ]]; then
			return 1
		fi
	done
	((${#running[@]} < jobs_max))
}
while :; do
	progress=0
	for entry in "${stages[@]}"; do
		name=${entry%%:*} needs=${entry#*:}
		[[ ${state[$name]:-} == waiting ]] || continue
		if [[ -n $needs && ${state[$needs]} == failed ]]; then
			echo "not run: $needs failed" >"$logs/$name.log"
			echo "failed 1" >"$logs/$name.counts"
			echo 0 >"$logs/$name.seconds"
			state[$name]=failed
			report "$name"
			progress=1
		elif room_for "$name" && [[ -z $needs || ${state[$needs]} == passed ]]; then
			run_stage "$name" &
			running[$!]=$name
			state[$name]=running
		fi
	done
	if ((${#running[@]} == 0)); then
		((progress)) && continue
		break
	fi
	wait -n -p ended "${!running[@]}"
	code=$?
	name=${running[$ended]}
	unset "running[$ended]"
	state[$name]=$( ((code == 0)) && echo passed || echo failed)
	report "$name"
done

if grep -h '^skipped' "$logs"/*.counts >"$logs/skipped" 2>/dev/null; then
	echo "skipped:"
	sed 's/^skipped/   /' "$logs/skipped" | sort -u
fi
failed=$(sum failed "$logs"/*.counts)
echo "all stages took $((SECONDS - began)) s"
echo "$(sum passed "$logs"/*.counts) passed, $failed failed"
((failed == 0))
