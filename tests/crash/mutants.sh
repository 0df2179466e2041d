#!/bin/bash
# SPDX-License-Identifier: MIT
#
# Proves that the crash machines can see: each patch in mutants/ plants one bug in a copy of the tree,
# and the command named in the patch must find it within a minute. If the patch names the promise that
# it breaks, nothing else that may be noticed counts. A patch that no longer applies, or a mutant that
# does not compile, is a failure: it proves nothing any more.
#
#	mutants.sh [--keep DIR] [NAME…]

set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=
keep=

while [ $# -gt 0 ]; do
	case "$1" in
	--keep)
		keep=$2
		shift 2
		;;
	-h | --help)
		sed -n '4,9s/^# \{0,1\}//p' "$0"
		exit 0
		;;
	-*)
		echo "mutants.sh: unknown option $1" >&2
		exit 2
		;;
	*)
		break
		;;
	esac
done

if [ -n "$keep" ]; then
	mkdir -p "$keep" || exit 2
	work=$keep
else
	work=$(mktemp -d) || exit 2
	trap 'rm -rf "$work"' EXIT
fi
tree=$work/tree
build=$work/build

fail() {
	echo "mutants.sh: $*" >&2
	exit 2
}

copy() {
	rm -rf "$tree" "$build" # objects of an earlier mutant would look newer than their sources
	mkdir -p "$tree" && (cd "$root" && tar cf - --exclude=./.git --exclude=./build .) |
		tar xf - -C "$tree" || fail "cannot copy the tree"
	# The machines alone: the rest of the tests is not needed here.
	printf "subdir('crash')\n" >"$tree/tests/meson.build"
	printf '' >"$tree/examples/meson.build"
	printf '' >"$tree/deploy/meson.build"
	meson setup "$build" "$tree" >"$work/setup.log" 2>&1 || {
		cat "$work/setup.log" >&2
		fail "meson setup fails"
	}
}

compile() {
	ninja -C "$build" tests/crash/powerloss tests/crash/faults >"$work/build.log" 2>&1
}

touched() {
	sed -n 's,^+++ b/,,p' "$1"
}

# Puts back the files that a patch touches; the root may have changed since it was copied.
restore() {
	touched "$1" | while read -r file; do
		cp "$work/before/$file" "$tree/$file"
		touch "$tree/$file"
	done
}

keep_files() {
	touched "$1" | while read -r file; do
		mkdir -p "$work/before/$(dirname "$file")"
		cp "$tree/$file" "$work/before/$file"
	done
}

# Prints what became of a mutant; 0 if it was caught.
try() {
	local patch=$1 name command breaks begun status evidence
	name=$(basename "$patch" .patch)
	command=$(sed -n 's/^# caught-by: //p' "$patch")
	breaks=$(sed -n 's/^# breaks: //p' "$patch")
	if ! patch -p1 --batch --forward --no-backup-if-mismatch -d "$tree" <"$patch" >"$work/patch.log" 2>&1; then
		cat "$work/patch.log" >&2
		echo "FAILED $name: the patch no longer applies"
		return 1
	fi
	if ! compile; then
		grep -m 5 error "$work/build.log" >&2
		echo "FAILED $name: it does not compile"
		return 1
	fi
	begun=$(date +%s)
	# shellcheck disable=SC2086
	timeout 60 "$build/tests/crash/"$command --must-find ${breaks:+--only "$breaks"} >"$work/run.log" 2>&1
	status=$?
	evidence=$(grep -m 1 -o 'FOUND.*' "$work/run.log" | cut -c 1-150)
	if [ $status -eq 0 ] || { [ -z "$breaks" ] && [ $status -ge 128 ] && [ $status -ne 143 ]; }; then
		echo "caught $name in $(($(date +%s) - begun)) s: $evidence"
		return 0
	fi
	tail -n 3 "$work/run.log" >&2
	echo "FAILED $name: not caught (exit $status)"
	return 1
}

copy
compile || {
	tail -n 20 "$work/build.log" >&2
	fail "the tree does not build"
}

caught=0
missed=0
if [ $# -eq 0 ]; then
	set -- "$here"/mutants/*.patch
else
	set -- "${@/#/$here/mutants/}"
	set -- "${@/%/.patch}"
fi
for patch in "$@"; do
	[ -f "$patch" ] || fail "no such mutant: $patch"
	keep_files "$patch"
	if try "$patch"; then
		caught=$((caught + 1))
	else
		missed=$((missed + 1))
	fi
	restore "$patch"
done
echo "mutants: $caught caught, $missed missed"
[ "$missed" -eq 0 ]
