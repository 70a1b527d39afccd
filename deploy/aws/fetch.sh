#!/bin/bash
# Brings the release that the settings name to this machine: its files to /opt/waggle/CHECKSUM, its images to the engine.
# A timer runs it on every machine, so that all have a new release before a manager deploys it. Running it again costs one
# call. The image localhost/waggle/release:CHECKSUM, which is made last, says that the machine is done.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

load_machine
load_settings
release=$opt/$CHECKSUM

if [[ ! -d $release ]]; then
	aws s3 cp --only-show-errors "s3://$BUCKET/$KEY" "$opt/release.tar"
	echo "$CHECKSUM  $opt/release.tar" | sha256sum --check --quiet
	rm -rf "$release.new"
	install -d "$release.new"
	tar -C "$release.new" --strip-components=1 --no-same-owner -xf "$opt/release.tar"
	rm "$opt/release.tar"
	mv "$release.new" "$release"
fi

# listed prints name, reference and id of each image of the release.
listed() { jq -r '.images | to_entries[] | [.key, .value.reference, .value.id] | @tsv' "$release/images.json"; }

# pull takes the images from ECR, where they have the same tags, and gives them the names that the release knows.
pull() {
	local host=${ECR%%/*} name reference remote
	aws ecr get-login-password | docker login --username AWS --password-stdin "$host" >/dev/null 2>&1
	while IFS=$'\t' read -r name reference _; do
		remote=$ECR/$name:${reference##*:}
		docker pull --quiet "$remote" >/dev/null
		docker tag "$remote" "$reference"
	done < <(listed)
	docker logout "$host" >/dev/null
}

if ! docker image inspect "$marker:${CHECKSUM:0:12}" >/dev/null 2>&1; then
	case $IMAGES in
		archive) docker load --quiet --input "$release/images.tar.gz" >/dev/null ;;
		ecr) pull ;;
		*) die "IMAGES is $IMAGES: must be archive or ecr" ;;
	esac
	while IFS=$'\t' read -r name reference id; do
		found=$(docker image inspect --format '{{.Id}}' "$reference")
		[[ $found = "$id" ]] || die "image $name is $found, and the release says $id"
	done < <(listed)
	docker tag "$(jq -r .images.provider.reference "$release/images.json")" "$marker:${CHECKSUM:0:12}"
	say "has release $(jq -r .version "$release/images.json")"
fi
ln -sfn "$release" "$opt/current"
