# shellcheck shell=bash
# SPDX-License-Identifier: MIT
#
# The Debian 12 packages that litefunnel needs, in one place. Source this file, then
#	packages_install "${packages_build[@]}" "${packages_test[@]}"
# installs those that are missing. Nothing else of the project installs anything.

# To build the daemon, its commands and the client library.
packages_build=(
	gcc libc6-dev meson ninja-build pkg-config
	libsqlite3-dev libmsgpack-dev libevent-dev libjansson-dev libinih-dev libsystemd-dev libxxhash-dev
	libcurl4-openssl-dev libssl-dev liblz4-dev
)

# To run the examples in Python.
packages_example=(python3 python3-msgpack)

# To run tests/run.sh on top of these.
packages_test=(
	clang libclang-rt-14-dev clang-format clang-tidy valgrind
	libcmocka-dev
	python3-pytest python3-pytest-xdist sqlite3
	binutils git patch procps mandoc strace openssl
	systemd e2fsprogs mount util-linux passwd
	radosgw ceph-mon ceph-osd
)

# A store without conditional PUTs, for ship/test_unfenced.py --soak.
packages_swift=(swift-proxy swift-account swift-container swift-object python3-swift python3-keystonemiddleware)

# What tests/bench/table.py measures beside, and draws with.
packages_postgres=(postgresql-15 postgresql-client-15)
packages_plots=(gnuplot-nox)

# Installs the packages of its arguments that are not installed; says nothing if there is none.
packages_install() {
	local package missing=()
	for package in "$@"; do
		if [[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) != installed ]]; then
			missing+=("$package")
		fi
	done
	if ((${#missing[@]} == 0)); then
		return 0
	fi
	if ((EUID != 0)); then
		echo "packages are missing: run as root, or: apt-get install ${missing[*]}" >&2
		return 1
	fi
	echo "installing ${missing[*]}"
	DEBIAN_FRONTEND=noninteractive apt-get -q update </dev/null &&
		DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends install \
			"${missing[@]}" </dev/null
}
