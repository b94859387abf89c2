#!/usr/bin/env bash
# A real S3 server on 127.0.0.1 for tests and demos: Ceph RGW over one monitor and one OSD, without systemd.
#
#   infra/s3/rgw.sh install            Debian packages, if missing
#   eval "$(infra/s3/rgw.sh start)"    create or restart the server, set AWS_ENDPOINT_URL and the keys
#   infra/s3/rgw.sh status             one line per daemon; exit 3 unless all of them run
#   infra/s3/rgw.sh stop               objects stay in the data folder, for the next start
#   infra/s3/rgw.sh crash              kill -9 of all daemons at once, as if the machine were lost
#
# All but install take a data folder: an argument, or $SPEECHMILL_RGW_DIR, or a per-user temporary one.
set -euo pipefail

PACKAGES=(radosgw ceph-mon ceph-osd)
DAEMONS=(mon.a osd.0 client.rgw.a)
# The path of a unix socket has at most 107 characters; the longest name after the folder, /client.rgw.a.asok, has 18.
MAX_DIR_LENGTH=85

say() { echo "rgw: $*" >&2; }

die() {
  say "$*"
  exit 1
}

is_installed() {
  command -v radosgw ceph-mon ceph-osd ceph ceph-authtool monmaptool radosgw-admin >/dev/null
}

as_root() {
  if ((EUID == 0)); then "$@"; else sudo -n "$@"; fi
}

install_packages() {
  is_installed && return
  command -v apt-get >/dev/null || die "there is no apt-get: install ${PACKAGES[*]} with the package manager of this system"
  as_root apt-get update >&2
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y --no-install-recommends "${PACKAGES[@]}" >&2
}

# Two settings differ from the defaults for speed. The monitor agrees on a new map within 0.1 s. The gateway has no
# cache: after a crash, its stale watch on the cache would delay the creation of a bucket by 30 s.
write_conf() {
  cat >"$DIR/ceph.conf" <<CONF
[global]
fsid = $1
mon host = v2:127.0.0.1:$2
public network = 127.0.0.0/8
run dir = $DIR
admin socket = $DIR/\$name.asok
pid file = $DIR/\$name.pid
log file = $DIR/log/\$name.log
keyring = $DIR/keyring
auth allow insecure global id reclaim = false
paxos propose interval = 0.1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pgp num = 4
osd crush chooseleaf type = 0
mon allow pool size one = true
mon warn on pool no redundancy = false
mon data = $DIR/mon
mon initial members = a
mon max pg per osd = 500
mon data avail warn = 1
mon data avail crit = 1
osd data = $DIR/osd
osd objectstore = bluestore
osd memory target = 939524096
osd class update on start = false
ms bind msgr1 = false
rgw cache enabled = false
rgw data = $DIR/rgw
rgw frontends = beast tcp_nodelay=1 endpoint=127.0.0.1:$3
CONF
}

answers() {
  (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null
}

# Callers ask for ports below 32768: the kernel may give a higher one to another process between two starts.
free_port() {
  local port
  for _ in {1..100}; do
    port=$(($1 + RANDOM % 5000))
    answers "$port" || { echo "$port" && return; }
  done
  die "no free port found from $1 on, on 127.0.0.1"
}

s3_port() { sed -n 's/.*endpoint=127\.0\.0\.1://p' "$DIR/ceph.conf"; }

# After a kill -9 the number in the file may belong to another process.
is_ours() { grep -qsaF -- "$DIR/ceph.conf" "/proc/$1/cmdline"; }

pid_of() {
  local pid
  pid=$(cat "$DIR/$1.pid" 2>/dev/null) && is_ours "$pid" && echo "$pid"
}

logged() {
  "$@" </dev/null >>"$DIR/log/start.log" 2>&1 || die "$1 failed: see $DIR/log"
}

# After a kill, a gateway that starts with the old map waits 10 s for an OSD that no longer exists.
wait_for_osd() {
  local deadline=$((SECONDS + 60))
  until ceph --admin-daemon "$DIR/osd.0.asok" status 2>/dev/null | grep -F '"state": "active"' >/dev/null; do
    ((SECONDS < deadline)) || die "osd.0 did not become active within 60 s: see $DIR/log"
    sleep 0.1
  done
}

start_daemon() {
  pid_of "$1" >/dev/null && return
  case $1 in
    mon.a) logged ceph-mon -c "$DIR/ceph.conf" -i a ;;
    osd.0) logged ceph-osd -c "$DIR/ceph.conf" -i 0 && wait_for_osd ;;
    client.rgw.a) logged radosgw -c "$DIR/ceph.conf" -n client.rgw.a ;;
  esac
}

make_keyring() {
  local ring=$DIR/keyring
  logged ceph-authtool -C "$ring" --gen-key -n mon. --cap mon 'allow *'
  logged ceph-authtool "$ring" --gen-key -n client.admin --cap mon 'allow *' --cap osd 'allow *' --cap mgr 'allow *'
  logged ceph-authtool "$ring" --gen-key -n client.rgw.a --cap mon 'allow rw' --cap osd 'allow rwx'
  logged ceph-authtool "$ring" --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *'
}

create_cluster() {
  local conf=(-c "$DIR/ceph.conf") fsid osd_uuid mon_port s3_port
  fsid=$(</proc/sys/kernel/random/uuid)
  osd_uuid=$(</proc/sys/kernel/random/uuid)
  mon_port=$(free_port 21000)
  s3_port=$(free_port 27000)
  rm -rf "$DIR"/{mon,osd,rgw,log,keyring,monmap,ceph.conf}
  mkdir "$DIR"/{mon,osd,rgw,log}
  write_conf "$fsid" "$mon_port" "$s3_port"
  make_keyring
  logged monmaptool --create --addv a "[v2:127.0.0.1:$mon_port]" --fsid "$fsid" "$DIR/monmap"
  logged ceph-mon "${conf[@]}" --mkfs -i a --monmap "$DIR/monmap" --keyring "$DIR/keyring"
  start_daemon mon.a
  logged ceph "${conf[@]}" osd new "$osd_uuid"
  logged ceph "${conf[@]}" auth import -i "$DIR/keyring"
  truncate -s 10G "$DIR/osd/block"
  logged ceph-osd "${conf[@]}" -i 0 --mkfs --osd-uuid "$osd_uuid" --monmap "$DIR/monmap"
}

create_user() {
  logged radosgw-admin -c "$DIR/ceph.conf" user create --uid test --display-name test \
    --access-key testkey --secret-key testsecret
  touch "$DIR/created"
}

wait_for_s3() {
  local port deadline=$((SECONDS + 60))
  port=$(s3_port)
  until answers "$port"; do
    ((SECONDS < deadline)) || die "no S3 server on port $port after 60 s: see $DIR/log"
    sleep 0.1
  done
}

start() {
  is_installed || die "${PACKAGES[*]} are not installed: run $0 install"
  ((${#DIR} <= MAX_DIR_LENGTH)) || die "$DIR is longer than $MAX_DIR_LENGTH characters: give a shorter folder"
  (umask 077 && mkdir -p "$DIR")
  [[ -O $DIR ]] || die "$DIR belongs to another user: give another folder"
  # A first start that was interrupted cannot be continued, and nothing is stored yet: start from scratch.
  if [[ ! -e $DIR/created ]]; then
    stop
    create_cluster
  fi
  for daemon in "${DAEMONS[@]}"; do start_daemon "$daemon"; done
  wait_for_s3
  [[ -e $DIR/created ]] || create_user
  echo "export AWS_ENDPOINT_URL=http://127.0.0.1:$(s3_port) AWS_ACCESS_KEY_ID=testkey" \
    "AWS_SECRET_ACCESS_KEY=testsecret AWS_DEFAULT_REGION=us-east-1"
}

# Ports and locks are free only when the last thread has ended; a zombie that nobody reaps holds none.
has_threads() { grep -qsE '^State:[[:space:]]+[^ZX]' "/proc/$1"/task/*/status; }

wait_until_gone() {
  local deadline=$((SECONDS + 20))
  while has_threads "$1" && ((SECONDS < deadline)); do sleep 0.05; done
  ! has_threads "$1"
}

stop_daemon() {
  local pid
  pid=$(pid_of "$1") || return 0
  kill "$pid" 2>/dev/null || return 0
  wait_until_gone "$pid" && return
  say "$1 ignored TERM for 20 s: killing $pid"
  kill -KILL "$pid" 2>/dev/null || return 0
  wait_until_gone "$pid"
}

# In the reverse order of the start, so that each daemon can sign off from the one that it needs.
stop() {
  for daemon in client.rgw.a osd.0 mon.a; do stop_daemon "$daemon"; done
}

crash() {
  local pids=() pid
  for daemon in "${DAEMONS[@]}"; do
    if pid=$(pid_of "$daemon"); then pids+=("$pid"); fi
  done
  ((${#pids[@]} > 0)) || return 0
  kill -KILL "${pids[@]}"
  for pid in "${pids[@]}"; do wait_until_gone "$pid"; done
}

status() {
  local code=0 pid
  for daemon in "${DAEMONS[@]}"; do
    if pid=$(pid_of "$daemon"); then echo "$daemon runs as $pid"; else echo "$daemon is down" && code=3; fi
  done
  return "$code"
}

COMMAND=${1-}
DIR=${2-${SPEECHMILL_RGW_DIR-${TMPDIR:-/tmp}/speechmill-rgw-$UID}}
[[ $DIR == /* ]] || DIR=$PWD/$DIR

case $COMMAND in
  install) install_packages ;;
  start | status | stop | crash) "$COMMAND" ;;
  *) die "unknown command '$COMMAND': give install, start, status, stop or crash" ;;
esac
