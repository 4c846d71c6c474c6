#!/usr/bin/env bash
# Checks that each distribution declares what it imports and nothing else (deptry, per package).
# shellcheck source=lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
status=0
for package in packages/*; do
  echo "deptry $package"
  (cd "$package" && deptry src --known-first-party "$(basename "$package" | tr - _)") || status=1
done
exit $status
