#!/bin/bash
# Run by an operator: puts a release where the machines of a stack fetch it, and prints the template's parameters for it.
#
#   deploy/aws/publish.sh waggle-1.2.3-linux-amd64.tar BUCKET         the archive, with its images, into S3
#   deploy/aws/publish.sh waggle-1.2.3-linux-amd64.tar BUCKET waggle  the images also into ECR, below this name
set -euo pipefail

die() { echo "publish: $*" >&2; exit 1; }

(($# == 2 || $# == 3)) || die "it takes an archive, a bucket, and, for ECR, a namespace"
archive=$1 bucket=$2 namespace=${3:-}
[[ -f $archive ]] || die "$archive is not there: make it with \`make release VERSION=…\`"
key=$(basename "$archive")

aws s3 cp --only-show-errors "$archive" "s3://$bucket/$key"

if [[ -n $namespace ]]; then
	region=$(aws configure get region || echo "${AWS_REGION:-${AWS_DEFAULT_REGION:?set AWS_REGION}}")
	host=$(aws sts get-caller-identity --query Account --output text).dkr.ecr.$region.amazonaws.com
	folder=$(mktemp -d)
	trap 'rm -rf "$folder"' EXIT
	tar -C "$folder" --strip-components=1 -xf "$archive" "${key%.tar}/images.json" "${key%.tar}/images.tar.gz"
	docker load --quiet --input "$folder/images.tar.gz" >&2
	aws ecr get-login-password | docker login --username AWS --password-stdin "$host" >&2
	while read -r name reference; do
		aws ecr describe-repositories --repository-names "$namespace/$name" >/dev/null 2>&1 ||
			aws ecr create-repository --repository-name "$namespace/$name" --image-tag-mutability IMMUTABLE --image-scanning-configuration scanOnPush=true >/dev/null
		remote=$host/$namespace/$name:${reference##*:}
		docker tag "$reference" "$remote"
		docker push --quiet "$remote" >&2
	done < <(jq -r '.images | to_entries[] | "\(.key) \(.value.reference)"' "$folder/images.json")
fi

echo "ReleaseBucket=$bucket"
echo "ReleaseKey=$key"
echo "ReleaseChecksum=$(sha256sum "$archive" | cut -d' ' -f1)"
[[ -z $namespace ]] || echo "Images=ecr EcrNamespace=$namespace"
