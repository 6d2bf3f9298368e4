#!/bin/sh
# Pins the dependencies of pyproject.toml, with hashes, for one version of Python; run it once for each that we support:
#
#   requirements/compile.sh python3.11 && requirements/compile.sh python3.12
#   requirements/compile.sh python3.11 --upgrade    # to the newest versions; otherwise pins that still fit are kept
#
# dev: everything a checkout needs. all: every extra, for a machine that trains. actor: core and Gymnasium, for a thin
# actor. The last two hold a subset of the pins of the first.
set -eu

python=${1:?usage: requirements/compile.sh PYTHON [--upgrade]}
upgrade=${2:-}
cd "$(dirname "$0")/.."
version=$("$python" -c 'import sys; print("%d%d" % sys.version_info[:2])')
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
"$python" -m venv "$tools"
"$tools/bin/pip" install --quiet pip-tools

compile() { # NAME OPTION...: writes requirements/NAME-pyVERSION.txt
  output=requirements/$1-py$version.txt
  shift
  # Neither a header nor an index address: what is pinned does not depend on where it was pinned.
  "$tools/bin/pip-compile" --quiet --generate-hashes --allow-unsafe --strip-extras --resolver backtracking \
    --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
    ${upgrade:+"$upgrade"} --output-file "$output" "$@" pyproject.toml
}

runtime="--extra data --extra gym --extra learner --extra minari --extra minatar --extra plots --extra replay"
# shellcheck disable=SC2086  # a list of options
compile dev $runtime --extra dev
# shellcheck disable=SC2086
compile all $runtime --constraint "requirements/dev-py$version.txt"
compile actor --extra gym --constraint "requirements/dev-py$version.txt"
