#!/bin/bash
# Makes a new machine a member of the Swarm: engine, Session Manager, the store's volume, images, Swarm, timers. It ends by
# telling CloudFormation that the machine is ready. It may be run again after a failure.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=common.sh
. "$here/common.sh"

load_machine
load_settings
id=$(metadata instance-id)
address=$(metadata local-ipv4)

# The name tells people the role, and the managers' timer the instance.
name_machine() {
	local name
	name=$(node_name "$id" "$ROLE")
	echo "$name" >/etc/hostname
	hostname "$name"
	grep -q " $name\$" /etc/hosts || echo "127.0.1.1 $name" >>/etc/hosts
}

# Amazon's clock answers inside the machine; others cannot be reached from here.
set_clock() {
	if [[ -d /etc/chrony/sources.d ]]; then
		echo 'server 169.254.169.123 prefer iburst minpoll 4 maxpoll 4' >/etc/chrony/sources.d/amazon.sources
		systemctl restart chrony
	else
		install -d /etc/systemd/timesyncd.conf.d
		printf '[Time]\nNTP=169.254.169.123\n' >/etc/systemd/timesyncd.conf.d/amazon.conf
		systemctl restart systemd-timesyncd
	fi
}

# People come in through Session Manager: no machine has a port for ssh. Without the agent voting works all the same.
install_agent() {
	local package=/tmp/amazon-ssm-agent.deb architecture
	systemctl is-active --quiet amazon-ssm-agent && return
	architecture=$(dpkg --print-architecture)
	if curl -fsS --proto =https --retry 5 -o "$package" \
		"https://s3.$AWS_DEFAULT_REGION.amazonaws.com/amazon-ssm-$AWS_DEFAULT_REGION/latest/debian_$architecture/amazon-ssm-agent.deb"; then
		if ! apt-get -o DPkg::Lock::Timeout=300 install -y -qq "$package" >/dev/null || ! systemctl enable --now amazon-ssm-agent; then
			say "the Session Manager agent does not start"
		fi
	else
		say "the Session Manager agent cannot be downloaded"
	fi
	rm -f "$package"
}

# The store's volume outlives its machine: it holds the engine's volumes, of which Postgres's is one. An engine that ran
# without it would begin an empty database, so it does not start then.
mount_volume() {
	local device=/dev/disk/by-id/nvme-Amazon_Elastic_Block_Store_${VOLUME/-/} folder=/var/lib/docker/volumes
	mountpoint --quiet "$folder" && return
	until [[ -e $device ]]; do
		# It is taken from the machine before this one, which may still be ending.
		aws ec2 attach-volume --volume-id "$VOLUME" --instance-id "$id" --device /dev/sdf >/dev/null || say "volume $VOLUME is not free yet"
		sleep 5
	done
	blkid "$device" >/dev/null || mkfs.ext4 -q "$device"
	install -d -m 711 "$folder"
	grep -q " $folder " /etc/fstab 2>/dev/null || echo "$device $folder ext4 defaults,nofail,x-systemd.device-timeout=1min 0 2" >>/etc/fstab
	install -d /etc/systemd/system/docker.service.d
	printf '[Unit]\nRequiresMountsFor=%s\n' "$folder" >/etc/systemd/system/docker.service.d/volume.conf
	mount "$folder"
}

# A manager makes the roles of a database that RDS runs.
install_client() {
	command -v psql >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq postgresql-client >/dev/null
}

member() { [[ $(docker info --format '{{.Swarm.LocalNodeState}}') = active ]]; }

# first makes this machine the one that starts the Swarm, if there is none yet. Storing a parameter that exists fails, so
# one machine alone succeeds. A machine that ended before it had started the Swarm is replaced by the next with the
# smallest instance id, so that two never start one.
first() {
	local holder smallest
	if aws ssm put-parameter --name "/waggle/$STACK/first" --type String --value "$id" >/dev/null 2>&1; then return; fi
	holder=$(parameter first) || return 1
	[[ $holder != "$id" ]] || return 0
	smallest=$(aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names "$STACK-manager" \
		--query 'AutoScalingGroups[].Instances[].InstanceId' --output text | tr '\t' '\n' | sort)
	if grep -qx -- "$holder" <<<"$smallest" || [[ $(head -1 <<<"$smallest") != "$id" ]]; then return 1; fi
	say "$holder is gone before it started the Swarm: starting it here"
	put_parameter first String <<<"$id"
}

join() {
	local kind=worker token manager
	[[ $ROLE != manager ]] || kind=manager
	token=$(parameter "$kind-token") || return 1
	for manager in $(parameter managers); do
		[[ $manager != "$address" ]] || continue
		if docker swarm join --token "$token" --advertise-addr "$address" --data-path-addr "$address" "$manager:2377" >/dev/null 2>&1; then
			say "joined the Swarm of $manager as a $kind"
			return
		fi
		# A join that was given up may still go on, or have left half a member.
		member && return
		docker swarm leave --force >/dev/null 2>&1 || true
	done
	return 1
}

enter_swarm() {
	until member || join; do
		if [[ $ROLE = manager ]] && ! parameter managers >/dev/null && first; then
			# /20 networks hold 4,000 replicas where Docker's default holds 250; the VPC is outside of the range.
			docker swarm init --advertise-addr "$address" --data-path-addr "$address" \
				--default-addr-pool 10.200.0.0/13 --default-addr-pool-mask-length 20 >/dev/null
			docker swarm join-token --quiet worker | put_parameter worker-token SecureString
			docker swarm join-token --quiet manager | put_parameter manager-token SecureString
			put_parameter managers String <<<"$address"
			say "started the Swarm"
			return
		fi
		say "waiting for the Swarm"
		sleep 5
	done
}

# every NAME SECONDS SCRIPT runs a script of the newest release again and again, never twice at once.
every() {
	cat >"/etc/systemd/system/waggle-$1.service" <<-END
		[Unit]
		Description=Waggle: $3
		After=docker.service network-online.target
		[Service]
		Type=oneshot
		ExecStart=$opt/current/deploy/aws/$3
	END
	cat >"/etc/systemd/system/waggle-$1.timer" <<-END
		[Timer]
		OnActiveSec=$2
		OnUnitInactiveSec=$2
		AccuracySec=1
		[Install]
		WantedBy=timers.target
	END
	systemctl daemon-reload
	systemctl enable --now "waggle-$1.timer"
}

name_machine
[[ $ROLE != store || $VOLUME = none ]] || mount_volume
"$here/../machines/prepare.sh"
set_clock
install_agent
[[ $ROLE != manager || $DATABASE_HOST = none ]] || install_client
"$here/fetch.sh"
enter_swarm
every fetch 60 fetch.sh
[[ $ROLE != manager ]] || every tend 15 tend.sh
aws cloudformation signal-resource --stack-name "$STACK" --logical-resource-id "$RESOURCE" --unique-id "$id" --status SUCCESS ||
	say "CloudFormation does not wait for this machine"
