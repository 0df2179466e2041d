#!/bin/bash
# SPDX-License-Identifier: MIT
#
# words.sh ROOT: no path of somebody's machine, no note to oneself, no foreign editor's leftovers.
# Prints each line. What a user types as an example (/var/lib, /etc, /tmp of a manual) is no machine path.
set -u
cd "${1:?usage: words.sh ROOT}" || exit 2
files() {
	if git -C . rev-parse --is-inside-work-tree >/dev/null 2>&1; then
		git ls-files -z --cached --others --exclude-standard
	else
		find . -type f -not -path './.git/*' -not -path './build*' -print0
	fi
}
# Written so that this file does not find itself.
notes='(^|[^A-Za-z_])(TO''DO|FIX''ME|XX''X|HA''CK)([^A-Za-z_X]|$)'
paths='(^|[^A-Za-z0-9_.])/(wo''rk|ro''ot|Us''ers|tmp/bu''ild|tmp/br''ief|home/[a-z]+)/'
conflict='^(<<<''<<<<|>>>''>>>>) '
found=$(files | grep -zvE '(^|/)(fuzz/corpus|LICENSE)' |
	while IFS= read -r -d '' file; do [[ -f $file ]] && printf '%s\0' "$file"; done |
	xargs -0 -r grep -InE "$notes|$paths|$conflict" --)
if [[ -n $found ]]; then
	echo "$found"
	exit 1
fi
exit 0
