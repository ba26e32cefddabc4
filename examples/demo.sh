#!/bin/sh
# Check a wrong loss and a right one from the command line, and show both reports. This is what
# `make demo` runs; it fails unless the wrong one is convicted and the right one acquitted.
set -u
cd "$(dirname "$0")/.."

# The report is read here before it is shown, and still deserves its colours.
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then
    FORCE_COLOR=1
    export FORCE_COLOR
fi

check() { # NAME  EXPECTED-EXIT-CODE  WORD-IN-THE-REPORT
    target=examples/linear_regression.py:$1
    echo "\$ lossproof check $target"
    report=$("${BIN:+$BIN/}lossproof" check "$target")
    code=$?
    printf '%s\nexit code %s\n\n' "$report" "$code"
    if [ "$code" -ne "$2" ]; then
        echo "demo: expected exit code $2 for $1, got $code" >&2
        exit 1
    fi
    case $report in
    *"$3"*) ;;
    *)
        echo "demo: the report on $1 does not say $3" >&2
        exit 1
        ;;
    esac
}

check WrongMSE 1 LP203
check RightMSE 0 "0 errors, 0 warnings, 0 unproved"
