#!/bin/bash
# Prepares a node container and becomes its Docker engine; the arguments are passed to dockerd.
# WAGGLE_SSH_KEY, if set, is the public key that may log in as root over ssh.
# WAGGLE_OUTSIDE_MTU, if set, is the largest packet that leaves the machine: traffic between nodes may be larger.
set -euo pipefail

# cgroup v2 lets a group have either processes or children with controllers: move ourselves aside, then hand the
# controllers down to the containers. On cgroup v1 there is nothing to do.
if [[ -f /sys/fs/cgroup/cgroup.controllers && ${WAGGLE_HOST_CGROUPS:-} != true ]]; then
  mkdir -p /sys/fs/cgroup/node
  while read -r pid; do
    echo "$pid" >/sys/fs/cgroup/node/cgroup.procs 2>/dev/null || true
  done </sys/fs/cgroup/cgroup.procs
  for controller in $(</sys/fs/cgroup/cgroup.controllers); do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true
  done
fi

if [[ -n ${WAGGLE_OUTSIDE_MTU:-} ]]; then
  read -r _ _ gateway _ device _ < <(ip -4 route show default)
  ip route replace default via "$gateway" dev "$device" mtu "$WAGGLE_OUTSIDE_MTU"
fi

if [[ -n ${WAGGLE_SSH_KEY:-} ]]; then
  mkdir -p /run/sshd /root/.ssh
  printf '%s\n' "$WAGGLE_SSH_KEY" >/root/.ssh/authorized_keys
  # The image has host keys of its own; two machines with one key could not be told apart.
  [[ -f /etc/ssh/waggle_host_key ]] || ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/waggle_host_key
  /usr/sbin/sshd -o HostKey=/etc/ssh/waggle_host_key -o PasswordAuthentication=no
fi

exec dockerd --host unix:///var/run/docker.sock --host unix:///waggle/docker.sock "$@"
