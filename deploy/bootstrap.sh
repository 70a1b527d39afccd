#!/bin/bash
# Makes sure that Docker and Go are there, then runs the deploy program with this script's arguments.
#
# As root, what is missing is installed from the distribution, after saying so; INSTALL=no forbids it. Otherwise
# the script names the one command that installs it. Every failure is one line and a non-zero exit.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "make ${target:-up}: $*" >&2; exit 1; }
target=${1:-up}

# The Go version that go.mod asks for, and the oldest go command that fetches it by itself.
go_version=$(awk '$1 == "go" {print $2}' go.mod)
readonly self_updating_go=1.21

# install PACKAGE... for the named reason.
install() {
	local reason=$1; shift
	[ "${INSTALL:-}" != no ] || die "$reason, and INSTALL=no forbids installing it. Run: apt-get install $*"
	command -v apt-get >/dev/null || die "$reason. Install it with your distribution's package manager: $*"
	[ "$(id -u)" = 0 ] || die "$reason. Run: sudo apt-get install $*"
	echo "$reason: installing $* from the distribution" >&2
	apt-get update -qq >&2 || die "apt-get update failed. Check the machine's package sources."
	local minimal=--no-install-recommends
	[ -z "${recommended:-}" ] || minimal=
	DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $minimal "$@" >&2 || die "apt-get install $* failed. See above."
}

start_docker() {
	[ "${INSTALL:-}" != no ] && [ "$(id -u)" = 0 ] && [ -z "${DOCKER_HOST:-}" ] || return 0
	docker info >/dev/null 2>&1 && return 0
	echo "starting the Docker daemon" >&2
	if command -v systemctl >/dev/null && systemctl start docker 2>/dev/null; then :
	elif command -v service >/dev/null && service docker start >/dev/null 2>&1; then :
	fi
	for _ in $(seq 1 60); do docker info >/dev/null 2>&1 && return 0; sleep 0.5; done
}

# Where no registry answers, the base image is made by debootstrap.
needs_debootstrap() {
	! docker image inspect debian:bookworm-slim >/dev/null 2>&1 && ! docker pull -q debian:bookworm-slim >/dev/null 2>&1
}

go_is_at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -1)" = "$1" ]; }

# A distribution's Go older than 1.21 cannot switch to the version that go.mod names, but it can download that
# version as a module: the Go project publishes its toolchains as modules since 1.21.
fetch_toolchain() {
	local module arch dir
	arch=$(go env GOARCH)
	module="golang.org/toolchain@v0.0.1-go${go_version}.linux-${arch}"
	echo "Go is older than $self_updating_go: fetching Go $go_version as a module" >&2
	dir=$(cd /tmp && go mod download -json "$module" | awk -F'"' '$2 == "Dir" {print $4}')
	[ -n "$dir" ] || die "Go $go_version could not be fetched. Install Go $self_updating_go or newer."
	chmod -R u+w "$dir"
	chmod +x "$dir"/bin/* "$dir"/pkg/tool/*/*
	export PATH="$dir/bin:$PATH" GOROOT="$dir"
}

if ! command -v docker >/dev/null; then
	# With what it recommends: without iptables or AppArmor's parser there are systems on which no container starts.
	recommended=yes install "Docker is not installed" docker.io iptables
fi
start_docker
if [ "$target" = up ] || [ "$target" = cluster ]; then
	if docker info >/dev/null 2>&1 && ! command -v debootstrap >/dev/null && needs_debootstrap; then
		install "No registry can be reached and debootstrap is not installed" debootstrap debian-archive-keyring
	fi
fi
if ! command -v go >/dev/null; then
	[ -x /usr/local/go/bin/go ] && export PATH=/usr/local/go/bin:$PATH || install "Go is not installed" golang-go ca-certificates
fi
have=$(go env GOVERSION 2>/dev/null || true); have=${have#go}
go_is_at_least "$self_updating_go" "${have:-0}" || fetch_toolchain

program=$(mktemp -d)
trap 'rm -rf "$program"' EXIT
go build -o "$program/deploy" ./deploy || die "building the deploy program failed. See above."
"$program/deploy" "$@"
