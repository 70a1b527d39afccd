#!/bin/bash
# Runs on the host when Vagrant has made the last machine: collects the keys that deploy/vagrant/cluster.yml names, then
# brings Waggle up. The arguments are NAME=ADDRESS, one for each machine. It may be run again at any time.
set -euo pipefail
cd "$(dirname "$0")"

die() { echo "vagrant: $*" >&2; exit 1; }

keys=.vagrant/waggle
mkdir -p "$keys"
: >"$keys/known_hosts.new"
for machine in "$@"; do
	name=${machine%%=*} address=${machine#*=}
	# Vagrant keeps the key that it made for a machine in a folder of its provider.
	newest=
	for key in .vagrant/machines/"$name"/*/private_key; do
		if [[ -f $key && (-z $newest || $key -nt $newest) ]]; then newest=$key; fi
	done
	[[ -n $newest ]] || die "there is no key for $name below .vagrant/machines. Run: vagrant up $name"
	install -m 600 "$newest" "$keys/$name"
	found=$(ssh-keyscan -T 10 -t ed25519 "$address" 2>/dev/null || true)
	[[ -n $found ]] || die "$name does not answer at $address. Run: vagrant up $name"
	echo "$found" >>"$keys/known_hosts.new"
done
mv "$keys/known_hosts.new" "$keys/known_hosts"

exec make --no-print-directory -C ../.. up INVENTORY=deploy/vagrant/cluster.yml
