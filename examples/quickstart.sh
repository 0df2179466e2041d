#!/usr/bin/env bash
# SPDX-License-Identifier: MIT
#
# From a clean clone to the main job on real input, on a fresh Debian 12, in one command:
# installs what is missing, builds, and lets four workers write Debian's package index through the
# funnel while readers query the file, jobs are worked, and the daemon and a worker are killed. Then the
# database is deleted and comes back from the replica that it was shipped to.
#
#	bash examples/quickstart.sh [DIRECTORY]
#
# What it makes stays in DIRECTORY (default: a new one below /var/tmp, removed at the end).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tests/support/packages.sh
source tests/support/packages.sh

step() { printf '\n== %s\n' "$*"; }

step "packages"
packages_install "${packages_build[@]}" "${packages_example[@]}"
if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null; then
	apt-get -q update </dev/null # the index is the input
fi

step "build"
build=build/quickstart
if [[ ! -e $build/build.ninja ]]; then
	meson setup --buildtype=release -Dtests=false "$build" >/dev/null
fi
ninja -C "$build" | tail -n 1

step "the main job"
if (($# > 0)); then
	directory=$1
	mkdir -p "$directory"
else
	directory=$(mktemp -d -p /var/tmp litefunnel-quickstart.XXXXXX)
	trap 'rm -rf "$directory"' EXIT
fi
/usr/bin/python3 examples/quickstart.py "$PWD/$build/server/litefunnel" "$directory"
