#!/usr/bin/env bash
# Wait until the cloud says that it takes this spot machine back, then drain the Ray node on it.
#   spot-notice.sh aws|gcp       METADATA_URL names another metadata server, for tests
set -euo pipefail

metadata=${METADATA_URL:-http://169.254.169.254}

# Two minutes' notice; the path is not there before.
aws_notice() {
  local token
  token=$(wget --quiet --output-document=- --method=PUT \
    --header='X-aws-ec2-metadata-token-ttl-seconds: 60' "$metadata/latest/api/token") || return 1
  wget --quiet --output-document=/dev/null --header="X-aws-ec2-metadata-token: $token" \
    "$metadata/latest/meta-data/spot/instance-action"
}

# Thirty seconds' notice.
gcp_notice() {
  local preempted
  preempted=$(wget --quiet --output-document=- --header='Metadata-Flavor: Google' \
    "$metadata/computeMetadata/v1/instance/preempted") || return 1
  [ "$preempted" = TRUE ]
}

case ${1:-} in
  aws) seconds=110 ;;
  gcp) seconds=25 ;;
  *) echo "usage: $0 aws|gcp" >&2; exit 2 ;;
esac
until "$1_notice"; do sleep 2; done
exec ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "spot notice of $1" \
  --deadline-remaining-seconds "$seconds"
