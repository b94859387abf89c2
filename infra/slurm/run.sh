#!/usr/bin/env bash
# The body of tokenize.sbatch and train.sbatch: Ray on every node of the job, and a command of speechmill beside its head.
#
# The batch shell runs on the first node, which is Ray's head. When Slurm announces by SIGTERM that the job must leave, the
# command ends well and the job goes back into the queue, to resume. docs/guide/slurm.md says how to use it.
set -euo pipefail

START_SECONDS=${SPEECHMILL_START_SECONDS:-180} # until the run begins without the nodes that are not there
read -ra RUNNER <<<"${SPEECHMILL_RUNNER-}" # such as: apptainer exec --nv speechmill.sif

say() { echo "$(date +%T) run.sh: $*" >&2; }

die() {
  say "$*"
  exit 2
}

# The address at which Slurm itself reaches a node.
address_of() {
  local name
  name=$(scontrol --oneliner show node "$1" | grep -oP '\bNodeAddr=\K\S+')
  getent ahostsv4 "$name" | awk 'NR == 1 { print $1 }'
}

answers() {
  (exec 3<>"/dev/tcp/${1%:*}/${1#*:}") 2>/dev/null
}

# Only for the batch shell and the first task, which are on the node of the head; an old start of the job may have had its head
# on another one. It accepts connections before it can be used.
head_started() {
  ((SLURM_PROCID == 0)) && grep -qs 'Ray runtime started' "$RAY_FOLDER/start-0"
}

# A port of this node from $1 on. Jobs that share a node have different numbers. Ports stay below 32768, because the kernel
# may give away a higher one at any time.
free_port() {
  local port=$(($1 + SLURM_JOB_ID % 5000))
  while answers "$2:$port"; do port=$((port + 1)); done
  echo "$port"
}

# Ray would take 30 % of the memory of the machine, not of the job.
object_store() {
  local mb=${SLURM_MEM_PER_NODE:-$((${SLURM_MEM_PER_CPU:-0} * SLURM_CPUS_ON_NODE))}
  if ((mb)); then echo "--object-store-memory=$((mb * 1024 * 1024 * 3 / 10))"; fi
}

# A task on each node, until it gets SIGTERM: Slurm sends it to every process of the task, those of Ray too. It may announce
# a preemption in this way alone, so the first task tells the batch shell.
ray_node() {
  local mine options=()
  LEAVING=0
  # Ray opens its own folder to everyone, so it is inside of one that only this user can enter.
  mkdir -m 700 "$RAY_FOLDER" 2>/dev/null || [[ -O $RAY_FOLDER && ! -L $RAY_FOLDER ]] || die "$RAY_FOLDER belongs to someone else"
  mine=$(address_of "$SLURMD_NODENAME")
  if ((SLURM_PROCID == 0)); then
    trap 'LEAVING=1; kill -TERM "$BATCH_SHELL" 2>/dev/null || true' TERM
    options=(--head --port="${RAY_HEAD#*:}" --ray-client-server-port="$(free_port 26000 "$mine")" --include-dashboard=false
      --temp-dir="$RAY_FOLDER/r")
  else
    trap LEAVING=1 TERM
    options=(--address="$RAY_HEAD")
    until answers "$RAY_HEAD" || ((LEAVING)); do sleep 0.5 || true; done # SIGTERM ends sleep too
  fi
  mapfile -t -O "${#options[@]}" options < <(object_store)
  ulimit -Sn "$(ulimit -Hn)"
  export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0 # there is nothing left to drain
  # Otherwise Ray starts a process for each CPU that no run can use: its own have other variables.
  export RAY_prestart_worker_first_driver=0
  # Ray gives itself 30 s, which a cold disk may exceed. A command cannot go on with another head.
  while ((SECONDS < START_SECONDS && !LEAVING)) && ! head_started; do
    start_node "${options[@]}" --node-ip-address="$mine"
  done
  rm -rf "$RAY_FOLDER"
  ((SLURM_PROCID)) || kill -USR1 "$BATCH_SHELL" 2>/dev/null || true
  exit 0
}

# Port 0 is any free one: another job may have a node of Ray here.
start_node() {
  local ray
  "${RUNNER[@]}" ray start --block "$@" --disable-usage-stats --include-log-monitor=false --log-style=pretty --log-color=false \
    --num-cpus="$SLURM_CPUS_ON_NODE" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" \
    --min-worker-port=0 --max-worker-port=0 --dashboard-agent-listen-port=0 >"$RAY_FOLDER/start-$SLURM_PROCID" & # errors go to standard error
  ray=$!
  while kill -0 "$ray" 2>/dev/null; do wait "$ray" || true; done
}

start_ray() {
  export RAY_HEAD RAY_FOLDER=/tmp/speechmill-$SLURM_JOB_ID BATCH_SHELL=$$
  export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=$SLURM_SUBMIT_DIR/.ray-token-$SLURM_JOB_ID
  unset RAY_AUTH_TOKEN
  # A start of this job that was killed may have left it. Its files would say that the head has started.
  rm -rf "$RAY_FOLDER" 2>/dev/null || die "$RAY_FOLDER belongs to someone else"
  local address
  address=$(address_of "$SLURMD_NODENAME")
  RAY_HEAD=$address:$(free_port 20000 "$address")
  rm -f "$RAY_AUTH_TOKEN_PATH"
  (umask 077 && od -An -N32 -tx1 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH")
  srun --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    --export=ALL --mpi=none --no-kill --kill-on-bad-exit=0 "$SELF" node &
  RAY=$!
}

wait_for_nodes() {
  until head_started; do
    ((HEAD_ENDED)) && die "Ray did not start; its messages are above"
    ((SECONDS < START_SECONDS)) || die "Ray's head did not answer at $RAY_HEAD within $START_SECONDS s"
    ((STOPPING)) && return
    sleep 0.5
  done
  "${RUNNER[@]}" python3 - "$RAY_HEAD" "$SLURM_JOB_NUM_NODES" $((START_SECONDS - SECONDS)) <<'PYTHON' &
import sys, time
import ray

address, wanted, deadline = sys.argv[1], int(sys.argv[2]), time.monotonic() + int(sys.argv[3])
while not ray.is_initialized():
    try:
        ray.init(address=address, log_to_driver=False, logging_level="critical")
    except Exception as error:
        if time.monotonic() > deadline:
            sys.exit(f"Ray cannot be used: {error}")
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted and time.monotonic() < deadline:
    time.sleep(0.5)
print(f"Ray runs on {alive} of {wanted} nodes", file=sys.stderr)
PYTHON
  local waiting=$!
  wait "$waiting" && return
  kill "$waiting" 2>/dev/null || true
  ((STOPPING)) || die "Ray did not start; its messages are above"
}

# A second SIGTERM would end the command at once.
# shellcheck disable=SC2317 # a trap calls it
on_term() {
  ((STOPPING)) && return
  STOPPING=1
  say "SIGTERM: the command ends what it computes"
  [[ -z $COMMAND ]] || kill -TERM "$COMMAND" 2>/dev/null || true
}

run_command() {
  "${RUNNER[@]}" speechmill "$@" "ray.address=$RAY_HEAD" &
  COMMAND=$!
  ((STOPPING)) && kill -TERM "$COMMAND"
  STATUS=0
  while kill -0 "$COMMAND" 2>/dev/null; do wait "$COMMAND" && STATUS=0 || STATUS=$?; done
}

clean_up() {
  trap '' TERM USR1
  [[ -z $RAY ]] || scancel --signal=TERM "$SLURM_JOB_ID.0" 2>/dev/null || true
  [[ -z $RAY ]] || timeout 20 tail --pid="$RAY" -f /dev/null || kill -KILL "$RAY"
  RAY=''
  rm -f "${RAY_AUTH_TOKEN_PATH-}"
}

# A job that a user cancelled is COMPLETING. Codes 0 and 2 mean that another run would not get further.
may_resume() {
  ((STOPPING && STATUS != 0 && STATUS != 2)) &&
    [[ $(squeue --noheader --format=%T --jobs="$SLURM_JOB_ID") == RUNNING ]]
}

main() {
  command -v "${RUNNER[0]-speechmill}" >/dev/null ||
    die "${RUNNER[0]-speechmill} is not on PATH: activate the environment of speechmill before sbatch, or set SPEECHMILL_RUNNER"
  STOPPING=0 HEAD_ENDED=0 COMMAND='' RAY='' STATUS=130
  trap clean_up EXIT
  trap on_term TERM
  trap HEAD_ENDED=1 USR1
  start_ray
  wait_for_nodes
  ((STOPPING)) || run_command "$@"
  say "speechmill ended with exit code $STATUS"
  clean_up
  if may_resume; then
    if scontrol requeue "$SLURM_JOB_ID" 2>/dev/null; then
      say "back into the queue"
    else
      say "this job may not be requeued; submit it again to resume"
    fi
  fi
  exit "$STATUS"
}

SELF=$(realpath "$0")
# Both end by exit: bash reads nothing after this line, so the file may change during a run.
if [[ ${1-} == node ]]; then ray_node; else main "$@"; fi
