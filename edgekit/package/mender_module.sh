#!/bin/sh
# Mender's update module for edgekit bundles: /usr/share/mender/modules/v3/edgekit
# The payload is a bundle, and a file `store` with the path of the store. Mender calls this script with the state and its
# folder; https://docs.mender.io documents the protocol of update modules.
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
            echo "edgekit: the installed generation is no longer current: the store rolled back, or another was installed" >&2
            exit 1
        fi
        runtime commit "$store"
        ;;
    ArtifactRollback)
        # Roll back only what this update installed: it may have been refused or given up, or interrupted by a power cut.
        if [ -e "$before" ] && [ "$(cat "$before")" != "$(current)" ] &&
            { [ ! -e "$after" ] || [ "$(cat "$after")" = "$(current)" ]; }; then
            runtime rollback "$store"
        fi
        ;;
esac
