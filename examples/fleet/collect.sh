#!/bin/sh
# Collect doctor reports over ssh, one file per board: ./collect.sh fleet cam-1 cam-2 …
# A board that does not answer gets no file, and is listed at the end.
set -eu
folder="$1"
shift
mkdir -p "$folder"
silent=""
for board in "$@"; do
    if ${SSH:-ssh -o BatchMode=yes -o ConnectTimeout=10} "$board" python3 -m edgekit_runtime doctor --json \
        </dev/null >"$folder/$board.json.new"; then
        mv "$folder/$board.json.new" "$folder/$board.json"
    else
        rm -f "$folder/$board.json.new"
        silent="$silent $board"
    fi
done
[ -z "$silent" ] || {
    echo "did not answer:$silent" >&2
    exit 1
}
