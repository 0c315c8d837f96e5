#!/usr/bin/env bash
# Runs one trainer on one worker. Each command may be repeated, and may lose its connection at any moment: gcloud
# repeats a command up to ten times when ssh exits with 255.
#   agent.sh setup COMMAND                    installs the code, unless it is installed
#   agent.sh launch ID RUN_DIR GRACE COMMAND [NAME=VALUE ...]    starts a run, unless ID was started before;
#                                             fails if ID was started and another run after it
#   agent.sh status                           one line: state, pid, exit code, newest checkpoint, age and end of the log
#   agent.sh stop GRACE BY                    SIGTERM to the run's process group, SIGKILL after GRACE seconds
#   agent.sh log last LINES | from OFFSET     a part of the current run's log
#
# HOME/lfr_tpu/NAME/                          this file is below code/ there
#   identity                                  SLICE/WORKER
#   current                                   ID of the newest run
#   runs/ID/{command,run_dir,log}
#   runs/ID/pid                               process, its start time, boot id; the process leads a group and session
#   runs/ID/exit_code                         exists when the run has ended
#   runs/ID/alive                             locked while the run's supervisor lives
#   runs/ID/stopped                           exists when a user stopped the run
set -euo pipefail

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/../../.." && pwd)
agent=$home/code/tpu/worker/agent.sh
place=$(cat "$home/identity")
export VENV=$home/venv

# Prints the answer. It is one short line, so that the lines of many workers do not mix.
say() { echo "@lfr $place $*"; }
current() { cat "$home/current" 2>/dev/null || true; }
# The 22nd field of /proc/PID/stat; counted after the command's name, which may contain spaces.
started_at() {
  local stat
  stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
  read -ra stat <<<"${stat##*) }"
  echo "${stat[19]}"
}
boot_id() { cat /proc/sys/kernel/random/boot_id; }
write() { cat >"$1.new" && mv "$1.new" "$1"; }

# Whether the recorded process group is still the run's. A process with this number and another start time is not.
# While a group has members, the kernel gives its number to no new process.
ours() {
  local pid start boot
  read -r pid start boot 2>/dev/null <"$1/pid" && [ "$boot" = "$(boot_id)" ] || return 1
  if [ -e "/proc/$pid" ]; then [ "$(started_at "$pid")" = "$start" ]; else kill -0 -- "-$pid" 2>/dev/null; fi
}

state() { # of the run in folder $1: running, exited, lost (ended without an exit code)
  if [ -e "$1/exit_code" ]; then
    echo exited
  elif ! flock -n "$1/alive" true || leader_lives "$1"; then
    echo running
  elif [ -e "$1/exit_code" ]; then # written between the two checks
    echo exited
  else
    echo lost
  fi
}
leader_lives() {
  local pid rest
  read -r pid rest 2>/dev/null <"$1/pid" && [ -e "/proc/$pid" ] && ours "$1"
}

setup() {
  local stamp code=0
  exec 9>"$home/setup.lock" && flock 9
  stamp="$(readlink "$home/code") $1"
  if [ "$(cat "$home/setup_done" 2>/dev/null)" = "$stamp" ]; then
    say setup done=1
    return
  fi
  if [ -n "$(current)" ] && [ "$(state "$home/runs/$(current)")" = running ]; then
    say "setup done=0 line=run $(current) is running; stop it before you install other code"
    return 1
  fi
  rm -f "$home/setup_done"
  (cd "$home/code" && exec 9>&- && bash -c "$1") >"$home/setup.log" 2>&1 </dev/null || code=$?
  if [ "$code" = 0 ]; then
    echo "$stamp" | write "$home/setup_done"
    say setup done=1
  else
    say "setup done=0 line=exit code $code: $(last_line "$home/setup.log")"
    return 1
  fi
}

launch() {
  local id=$1 run_dir=$2 grace=$3 command=$4 folder=$home/runs/$1 before
  shift 4
  exec 9>"$home/launch.lock" && flock 9
  before=$(current)
  if [ -e "$folder/pid" ] && [ "$before" != "$id" ]; then
    say "launch id=$id started=0 line=run $before was launched after it"
    return 1
  fi
  if [ ! -e "$folder/pid" ]; then
    [ -z "$before" ] || end "$home/runs/$before" "$grace"
    if ! await_free "$@"; then
      say "launch id=$id started=0 line=the accelerator is in use by $(holders "$@" | paste -sd ' ')"
      return 1
    fi
    mkdir -p "$folder"
    echo "$command" | write "$folder/command"
    echo "$run_dir" | write "$folder/run_dir"
    echo "$id" | write "$home/current"
    setsid bash "$agent" supervise "$folder" "$@" >/dev/null 2>&1 </dev/null 9>&- &
    for _ in $(seq 100); do
      if [ -e "$folder/pid" ]; then break; fi
      sleep 0.1
    done
  fi
  if [ -e "$folder/pid" ]; then
    say "launch id=$id started=1 pid=$(cut -d ' ' -f 1 "$folder/pid")"
  else
    say "launch id=$id started=0 line=the supervisor did not start; look into $folder"
    return 1
  fi
}

supervise() { # the run in folder $1, with the variables after it; lives as long as the trainer, and ignores signals
  local folder=$1 pid code=127 last interrupted=1 variable
  shift
  exec 8>"$folder/alive" && flock 8
  trap 'interrupted=1' TERM INT HUP
  cd "$home/code"
  export JAX_COMPILATION_CACHE_DIR=$home/jax_cache PATH=$VENV/bin:$PATH VIRTUAL_ENV=$VENV PYTHONUNBUFFERED=1
  for variable in "$@"; do export "${variable?}"; done
  # The trap keeps a shell of several commands alive on SIGTERM, while its trainer saves.
  setsid bash -c "trap : TERM
$(cat "$folder/command")" >>"$folder/log" 2>&1 </dev/null 8>&- &
  pid=$!
  echo "$pid $(started_at "$pid" || echo 0) $(boot_id)" | write "$folder/pid"
  while [ -n "$interrupted" ]; do
    interrupted=
    wait "$pid" && last=0 || last=$?
    [ "$last" = 127 ] || code=$last # 127 also means that it was waited for before
  done
  echo "$code" | write "$folder/exit_code"
}

end() { # the run in folder $1: SIGTERM, and after $2 seconds SIGKILL to its process group
  local pid deadline=$((SECONDS + $2))
  ours "$1" || return 0
  read -r pid _ <"$1/pid"
  kill -TERM -- "-$pid" 2>/dev/null || true
  while [ "$(state "$1")" = running ] && [ "$SECONDS" -lt "$deadline" ]; do sleep 0.2; done
  if ours "$1"; then kill -KILL -- "-$pid" 2>/dev/null || true; fi
  for _ in $(seq 50); do
    [ "$(state "$1")" = running ] || break
    sleep 0.1
  done
}

stop() {
  local id
  id=$(current)
  if [ -n "$id" ]; then
    [ "$2" != user ] || touch "$home/runs/$id/stopped"
    end "$home/runs/$id" "$1"
  fi
  status
}

# Processes that hold an accelerator: "PID(NAME)". Those of other users are visible only to root.
holders() {
  local devices=() device pid eyes=()
  local globs=${LFR_DEVICES:-"/dev/accel* /dev/vfio/*"} variable
  for variable in "$@"; do
    case $variable in LFR_DEVICES=*) globs=${variable#*=} ;; esac
  done
  for device in $globs; do
    [ ! -e "$device" ] || devices+=(-o -lname "$device")
  done
  [ ${#devices[@]} -gt 0 ] || return 0
  if sudo -n true 2>/dev/null; then eyes=(sudo -n); fi
  { "${eyes[@]}" find /proc/[0-9]*/fd -maxdepth 1 \( "${devices[@]:1}" \) 2>/dev/null || true; } |
    cut -d / -f 3 | sort -un | while read -r pid; do
    echo "$pid($(cat "/proc/$pid/comm" 2>/dev/null || true))"
  done
}

await_free() { # the driver frees a chip a little after its process ends
  for _ in $(seq 10); do
    [ -n "$(holders "$@")" ] || return 0
    sleep 0.5
  done
  return 1
}

last_line() { # of file $1, as a terminal shows it; printable and short
  [ ! -e "$1" ] || tail -c 4096 "$1" | tr '\r' '\n' | { LC_ALL=C grep -a '[^[:space:]]' || true; } | tail -n 1 |
    LC_ALL=C tr -cd '[:print:]' | cut -c 1-160
}

newest_step() { # the largest number that is a folder's name in $1/checkpoints
  { ls -1 "$1/checkpoints" 2>/dev/null || true; } | { grep -xE '[0-9]+' || true; } | sort -n | tail -n 1
}

silence() { # seconds since something was written to file $1
  local written
  written=$(stat -c %Y "$1" 2>/dev/null) || return 0
  echo $((EPOCHSECONDS > written ? EPOCHSECONDS - written : 0))
}

status() {
  local id folder now pid code step stopped=0
  id=$(current)
  if [ -z "$id" ]; then
    say "status state=none digest=$(readlink "$home/code")"
    return
  fi
  folder=$home/runs/$id
  pid=$(cut -d ' ' -f 1 "$folder/pid" 2>/dev/null || true)
  [ ! -e "$folder/stopped" ] || stopped=1
  step=$(newest_step "$(cat "$folder/run_dir")")
  now=$(state "$folder")
  code=$(cat "$folder/exit_code" 2>/dev/null || true)
  say "status state=$now run=$id pid=$pid code=$code stopped=$stopped step=$step" \
    "silence=$(silence "$folder/log") digest=$(readlink "$home/code") line=$(last_line "$folder/log")"
}

log() {
  local file size from
  file=$home/runs/$(current)/log
  size=$(stat -c %s "$file" 2>/dev/null || echo 0)
  if [ "$1" = last ]; then
    from=$((size - $(head -c "$size" "$file" 2>/dev/null | tail -n "$2" | wc -c)))
  else
    from=$2
  fi
  [ $((size - from)) -le 1000000 ] || size=$((from + 1000000))
  say "log run=$(current) next=$size"
  [ "$size" -le "$from" ] || tail -c "+$((from + 1))" "$file" | head -c "$((size - from))"
}

command=$1
shift
case $command in
setup | launch | supervise | status | stop | log) "$command" "$@" ;;
*)
  echo "agent.sh: found $command, expected setup, launch, status, stop or log" >&2
  exit 2
  ;;
esac
