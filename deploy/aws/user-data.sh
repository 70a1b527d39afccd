# shellcheck shell=bash
# Runs once, as root, on each new machine: fetches the release that the stack names, checks it, and lets its boot.sh go on.
# The template puts a head before this text that sets ROLE, RESOURCE, STACK and AWS_DEFAULT_REGION.
set -euo pipefail
export AWS_DEFAULT_REGION DEBIAN_FRONTEND=noninteractive

packages=()
for pair in aws:awscli jq:jq curl:curl; do
	command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}")
done
# The network of a new machine may need a moment.
until ((${#packages[@]} == 0)) || { apt-get update -qq && apt-get -o DPkg::Lock::Timeout=300 install -y -qq "${packages[@]}" >/dev/null; }; do sleep 5; done

install -d -m 700 /etc/waggle /opt/waggle
printf '%s\n' "ROLE=$ROLE" "RESOURCE=$RESOURCE" "STACK=$STACK" "AWS_DEFAULT_REGION=$AWS_DEFAULT_REGION" >/etc/waggle/machine.env

settings=$(aws ssm get-parameter --name "/waggle/$STACK/settings" --query Parameter.Value --output text)
setting() { sed -n "s/^$1=//p" <<<"$settings"; }
checksum=$(setting CHECKSUM)
aws s3 cp --only-show-errors "s3://$(setting BUCKET)/$(setting KEY)" /opt/waggle/release.tar
echo "$checksum  /opt/waggle/release.tar" | sha256sum --check --quiet
install -d "/opt/waggle/$checksum"
tar -C "/opt/waggle/$checksum" --strip-components=1 --no-same-owner -xf /opt/waggle/release.tar
rm /opt/waggle/release.tar
until "/opt/waggle/$checksum/deploy/aws/boot.sh"; do sleep 15; done
