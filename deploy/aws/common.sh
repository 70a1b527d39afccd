# shellcheck shell=bash
# What the scripts of this folder share: where things are on a machine, its settings, and the AWS calls with a meaning.
#
# machine.env is what this machine is, written by user-data.sh: ROLE, RESOURCE (its group in the template), STACK,
# AWS_DEFAULT_REGION. Everything else is the parameter `settings`, which the template writes, so that a change of the stack
# reaches running machines.

readonly etc=/etc/waggle
# shellcheck disable=SC2034  # the scripts that read this one use them
readonly opt=/opt/waggle marker=localhost/waggle/release

say() { echo "waggle: $*" >&2; }
die() { say "$*"; exit 1; }

load_machine() {
	# shellcheck source=/dev/null
	. "$etc/machine.env"
	export AWS_DEFAULT_REGION
}

# parameter NAME prints the value of a parameter of this stack; it fails where there is none.
parameter() {
	aws ssm get-parameter --name "/waggle/$STACK/$1" --with-decryption --query Parameter.Value --output text 2>/dev/null
}

# put_parameter NAME String|SecureString stores what it reads, if that is not stored already.
put_parameter() {
	local value
	value=$(cat)
	[[ $(parameter "$1" || true) != "$value" ]] || return 0
	# Through a file, since arguments can be read by every process of the machine.
	aws ssm put-parameter --name "/waggle/$STACK/$1" --type "$2" --overwrite --value file:///dev/stdin <<<"$value" >/dev/null
}

# load_settings reads the stack's settings into variables. One that this release does not know is left to the next, which
# this machine must still be able to fetch.
load_settings() {
	local text name value
	text=$(parameter settings) || die "the parameter /waggle/$STACK/settings cannot be read: see the role of this machine"
	while IFS='=' read -r name value; do
		case $name in
			BUCKET | KEY | CHECKSUM | IMAGES | ECR | STATE | POLLS | WORKERS | REDIS_MAXMEMORY | QUEUE_MAXMEMORY | COPIES | \
				PUBLIC_ORIGINS | VOLUME | DATABASE_HOST | DATABASE_SECRET) printf -v "$name" %s "$value" ;;
		esac
	done <<<"$text"
}

# metadata PATH asks the instance metadata service, with a session token as IMDSv2 demands.
metadata() {
	local token
	token=$(curl -fsS --retry 5 --max-time 5 -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
	curl -fsS --retry 5 --max-time 5 -H "X-aws-ec2-metadata-token: $token" "http://169.254.169.254/latest/meta-data/$1"
}

# node_name INSTANCE-ID ROLE is the host name, and with it the Swarm's name, of an instance; instance_of is its inverse.
node_name() { echo "$2-${1#i-}"; }
instance_of() { echo "i-${1##*-}"; }
