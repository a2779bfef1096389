#!/bin/sh
# Mender's update module for edgekit bundles: /usr/share/mender/modules/v3/edgekit
# The payload is a bundle, and a file `store` that says where its generations are kept. Mender calls this with the
# state and its folder; https://docs.mender.io has the protocol of update modules.
set -e
state="$1"
folder="$2"

[ ! -r /etc/default/edgekit ] || . /etc/default/edgekit
runtime() {
    "${EDGEKIT_PYTHON:-python3}" -m edgekit_runtime "$@"
}

case "$state" in
    NeedsArtifactReboot)
        echo "No"
        exit 0
        ;;
    SupportsRollback)
        echo "Yes"
        exit 0
        ;;
    ArtifactInstall | ArtifactCommit | ArtifactRollback) ;;
    *)
        exit 0
        ;;
esac

store=$(cat "$folder/files/store")
case "$store" in
    /*) ;;
    *)
        echo "edgekit: the payload names no store" >&2
        exit 1
        ;;
esac
before="$folder/tmp/before"
after="$folder/tmp/after"
current() {
    readlink "$store/current" || true
}

case "$state" in
    ArtifactInstall)
        mkdir -p "$folder/tmp"
        current >"$before"
        sync "$before"
        # shellcheck disable=SC2086  # several options
        runtime install ${EDGEKIT_INSTALL:-} "$folder"/files/*.edgekit "$store"
        current >"$after"
        sync "$after"
        ;;
    ArtifactCommit)
        if [ -e "$after" ] && [ "$(cat "$after")" != "$(current)" ]; then
            echo "edgekit: what was installed is not current any more: the store has gone back, or has another" >&2
            exit 1
        fi
        runtime commit "$store"
        ;;
    ArtifactRollback)
        # Only what this update has put there: it may have been refused or given up, or the power cut before.
        if [ -e "$before" ] && [ "$(cat "$before")" != "$(current)" ] &&
            { [ ! -e "$after" ] || [ "$(cat "$after")" = "$(current)" ]; }; then
            runtime rollback "$store"
        fi
        ;;
esac
