#!/usr/bin/env bash
# Receives a tarball of the code on a worker: checks it, unpacks it beside earlier code, makes it the current code.
#   receive.sh SLICE WORKER NAME SHA256 TARBALL
# The script itself is in that tarball, which may be damaged. So all of it is a function that the last line calls: a
# truncated script does nothing.
set -euo pipefail

receive() {
  local place=$1/$2 home=$HOME/lfr_tpu/$3 wanted=$4 tarball=$5 found folder
  found=$(sha256sum "$tarball" | cut -d ' ' -f 1)
  if [ "$found" = "$wanted" ]; then
    folder=code-${wanted:0:12}
    mkdir -p "$home"
    exec 9>"$home/push.lock" && flock 9 # may run twice at once: gcloud repeats a command that lost its connection
    if [ ! -d "$home/$folder" ]; then
      rm -rf "$home/$folder.partial"
      mkdir "$home/$folder.partial"
      tar -xzf "$tarball" -C "$home/$folder.partial"
      mv "$home/$folder.partial" "$home/$folder"
    fi
    ln -sfn "$folder" "$home/code"
    echo "$place" >"$home/identity.new"
    mv "$home/identity.new" "$home/identity"
  fi
  rm -f "$tarball"
  echo "@lfr $place push digest=$found"
}

receive "$@"
