# The shell of a page: sources the files that are named on file descriptor 3, and answers each with its status on 4.
set -euo pipefail

# Stands in for a browser: the page has to be there.
open() { curl --output /dev/null "$1"; }

while IFS=' ' read -r -u 3 block expectation; do
    if [[ $expectation == fails ]]; then
        set +e
        (set -e; source "$block") >"$block.out" 2>"$block.err" </dev/null
        status=$?
        set -e
    else
        source "$block" >"$block.out" 2>"$block.err" </dev/null
        status=0
    fi
    echo "$status" >&4
done
