#!/bin/bash
# Makes a machine with Debian 12, or a relative of it, ready for `make up INVENTORY=…`: a Docker engine that is not
# upgraded behind its operator's back, and a clock that is kept right. Run it as root; running it again changes nothing.
#
# The argument, which may be left out, is the user that logs in over ssh: it may then use the engine.
set -euo pipefail

die() { echo "prepare: $*" >&2; exit 1; }

[[ $(id -u) = 0 ]] || die "this must run as root: sudo $0 $*"
user=${1:-}
[[ -z $user ]] || id "$user" >/dev/null 2>&1 || die "user '$user' does not exist: name the one that logs in over ssh"

installed() { [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) = installed ]]; }

packages=()
if ! installed docker.io && ! installed docker-ce; then
	packages+=(docker.io iptables)
fi
if ! installed chrony && ! installed systemd-timesyncd && ! installed ntpsec; then
	packages+=(chrony)
fi
if ((${#packages[@]})); then
	export DEBIAN_FRONTEND=noninteractive
	# A machine that has just started may be busy with upgrades of its own.
	for attempt in {1..10}; do
		if apt-get update -qq; then break; fi
		((attempt < 10)) || die "the packages cannot be listed: see above"
		sleep 10
	done
	# With what they recommend: without AppArmor's parser there are systems on which no container starts.
	apt-get -o DPkg::Lock::Timeout=300 install -y -qq "${packages[@]}" >/dev/null
fi

# An engine that restarts by itself stops every container of its node. Upgrade it while the node is drained.
for package in docker.io docker-ce containerd containerd.io runc; do
	if installed "$package"; then apt-mark hold "$package" >/dev/null; fi
done

docker info >/dev/null 2>&1 || systemctl enable --now docker
[[ -z $user ]] || usermod --append --groups docker "$user"
echo "ready: Docker Engine $(docker version --format '{{.Server.Version}}')"
