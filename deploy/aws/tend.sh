#!/bin/bash
# Keeps the Swarm in step with the auto-scaling groups. A timer runs it on every manager; the Swarm's leader alone acts.
#
# In: what AWS says of the groups' machines, what the Swarm says of its nodes, the stack's settings. Out: tokens and
# addresses in parameters; labels by group; machines that are to end are emptied before they end; nodes of machines that are
# gone are forgotten; the system is deployed when release, settings, polls or capture machines have changed. It keeps nothing
# on this machine that the next leader would need, and a pass that was interrupted is continued by the next.
set -euo pipefail
# shellcheck source=common.sh
. "$(dirname "$0")/common.sh"

readonly roles=(manager edge capture worker store)
readonly kept=$opt/state # the deploy program's, kept in the bucket STATE

status() { put_parameter status String <<<"$*"; }

# look reads nodes and machines once for the whole pass. Each element of $members is a machine with the node that it is; the
# leader's is the last.
look() {
	local groups=()
	for role in "${roles[@]}"; do groups+=("$STACK-$role"); done
	nodes=$(docker node ls --quiet | xargs docker node inspect | jq -c 'map({
		node: .ID, name: .Description.Hostname, kind: .Spec.Role, availability: .Spec.Availability, state: .Status.State,
		address: (.ManagerStatus.Addr // .Status.Addr | sub(":2377$"; "")), labels: (.Spec.Labels // {}),
		leader: (.ManagerStatus.Leader // false), reachable: (.ManagerStatus.Reachability == "reachable")})')
	members=$(aws autoscaling describe-auto-scaling-groups --auto-scaling-group-names "${groups[@]}" --output json |
		jq -c --arg stack "$STACK-" --argjson nodes "$nodes" '[.AutoScalingGroups[]
			| (.AutoScalingGroupName | ltrimstr($stack)) as $role | (.Instances // [])[]
			| {instance: .InstanceId, life: .LifecycleState, role: $role, name: ($role + "-" + (.InstanceId | ltrimstr("i-")))}
			| .name as $name | . + ([$nodes[] | select(.name == $name)] | sort_by(.state != "ready") | .[0] // {})]
			| sort_by(.leader // false)')
}

# of FILTER FIELD... prints a line for each member that the filter selects, with its fields.
of() {
	local filter=$1 fields
	shift
	fields=$(printf ', .%s' "$@")
	jq -r ".[] | select($filter) | [${fields#, }] | @tsv" <<<"$members"
}

publish() {
	docker swarm join-token --quiet worker | put_parameter worker-token SecureString
	docker swarm join-token --quiet manager | put_parameter manager-token SecureString
	jq -r '[.[] | select(.kind == "manager" and .reachable) | .address] | sort | join(" ")' <<<"$nodes" | put_parameter managers String
}

label() {
	local node name role
	while IFS=$'\t' read -r node name role; do
		docker node update --label-add "waggle.$role=true" "$node" >/dev/null
		say "$name has role $role"
		changed=yes
	done < <(of '.state == "ready" and .role != "manager" and (.life | startswith("Terminating") | not) and .labels["waggle." + .role] != "true"' node name role)
}

hook() {
	local action=$1 role=$2 instance=$3
	shift 3
	aws autoscaling "$action" --lifecycle-hook-name drain --auto-scaling-group-name "$STACK-$role" --instance-id "$instance" "$@" >/dev/null
}

# end_machines empties the machines that AWS is about to end. Until one is empty its time is extended; it ends when it is.
# The leader comes last: when it has demoted itself, another goes on.
end_machines() {
	local instance role name node
	while IFS=$'\t' read -r instance role name node; do
		# One that never became a node has nothing.
		if [[ -z $node ]] || "empty_$role" "$name" "$node"; then
			hook complete-lifecycle-action "$role" "$instance" --lifecycle-action-result CONTINUE
			say "$name may end"
		else
			hook record-lifecycle-action-heartbeat "$role" "$instance" || say "the time of $name cannot be extended"
		fi
	done < <(of '.life == "Terminating:Wait"' instance role name node)
}

property() { jq -r --arg name "$1" ".[] | select(.name == \$name) | $2" <<<"$members"; }

# left NAME NODE lets Swarm end what runs there, and succeeds when nothing does.
left() {
	[[ $(property "$1" .availability) = drain ]] || docker node update --availability drain "$2" >/dev/null
	[[ $(property "$1" .state) = ready ]] || return 0
	! docker node ps "$2" --format '{{.CurrentState}}' | grep -q '^Running'
}

empty_worker() { left "$@"; }
empty_store() { left "$@"; } # its volume stays

# empty_manager makes it a worker first: a manager that just goes counts for the majority for ever. The last one ends with
# the whole Swarm.
empty_manager() {
	local name=$1 node=$2 others
	if [[ $(property "$name" .kind) = manager ]]; then
		others=$(jq --arg node "$node" '[.[] | select(.kind == "manager" and .reachable and .node != $node)] | length' <<<"$nodes")
		if ((others == 0)); then
			aws ssm delete-parameters --names "/waggle/$STACK/"{first,managers,worker-token,manager-token,status} >/dev/null
			return 0
		fi
		say "$name is demoted"
		docker node demote "$node" >/dev/null || say "$name cannot be demoted yet"
		return 1
	fi
	left "$name" "$node"
}

# empty_edge waits for the asynchronous calls that its own queue holds. The balancer sends it nothing new any more.
empty_edge() {
	local name=$1 waiting
	if [[ $(property "$name" .state) = ready ]]; then
		waiting=$(api "http://$(property "$name" .address)/system/queue" | jq '.pending + .running + .callbacks') || true
		if [[ $waiting != 0 ]]; then
			say "$name still has asynchronous calls: ${waiting:-its queue cannot be read}"
			return 1
		fi
	fi
	left "$@"
}

# api asks a gateway as admin; the password is no argument that others could read.
api() { printf 'user = "admin:%s"\n' "$(parameter basic-auth-password)" | curl -fsS --max-time 10 --config - "$1"; }

# ledger prints the results' ledger.
ledger() { curl -fsS --max-time 10 "$(gateways | head -1)/function/results?format=json" | jq -c .ledger; }

gateways() { of '.role == "edge" and .state == "ready" and .labels["waggle.edge"] == "true" and .availability == "active"' address | sed 's#^#http://#'; }

# empty_capture lets go of a machine only when each vote that it took is counted:
#   1. its label waggle.draining takes `vote` away, so nothing new comes in;
#   2. a worker has read its Redis after that, and the ledger says pending 0;
#   3. Redis stops, and the node is written off as drained, so that the results do not wait for it.
# A machine that is dead already is let go when the ledger says pending 0: its votes are counted from their copies.
empty_capture() {
	local name=$1 node=$2 quiet open
	if [[ $(property "$name" '.labels["waggle.draining"]') != true ]]; then
		docker node update --label-add waggle.draining=true "$node" >/dev/null
		say "$name takes no votes any more"
		return 1
	fi
	quiet=$(property "$name" '.labels["waggle.quiet"] // ""')
	if [[ -z $quiet ]]; then
		if [[ $(property "$name" .state) = ready ]] && docker node ps "$node" --filter name=vote --format '{{.CurrentState}}' | grep -q '^Running'; then return 1; fi
		docker node update --label-add "waggle.quiet=$(date +%s)" "$node" >/dev/null
		return 1
	fi
	if [[ $(property "$name" '.labels["waggle.drained"]') != true ]]; then
		# A vote may reach Redis until 15 s after its replica was told to stop. Of a dead machine there is no later reading.
		[[ $(property "$name" .state) = ready ]] || quiet=0
		open=$(ledger | jq --arg node "$name" --argjson after "$quiet" '[.streams[] | select(.node == $node)]
			| if . == [] then "unread" else map(select(.state == "active" or .state == "missing") | select(.pending > 0
				or (.seen_at | sub("\\.[0-9]+"; "") | fromdateiso8601) < $after + 15)) | length end') || open=unknown
		if [[ $open != 0 ]]; then
			say "$name still has votes that are not counted, or that nobody has read since it took the last"
			return 1
		fi
		docker node update --label-add waggle.drained=true --label-rm waggle.capture "$node" >/dev/null
		say "$name is drained"
	fi
	left "$name" "$node" && retired "$name"
}

# retired writes the node off in the ledger, by a task of the worker's image beside the workers. Workers refuse it until the
# node has been silent for a minute.
retired() {
	local name=$1 service=waggle-retire image secret how=(-node "$1")
	if ledger | jq -e --arg node "$name" 'all(.streams[] | select(.node == $node); .state == "retired" or .state == "replaced")' >/dev/null; then
		docker service rm "$service" >/dev/null 2>&1 || true
		return 0
	fi
	if ! docker service inspect "$service" >/dev/null 2>&1; then
		image=$(docker service inspect --format '{{.Spec.TaskTemplate.ContainerSpec.Image}}' waggle_worker)
		# Its name changes with its value.
		secret=$(docker service inspect --format '{{range .Spec.TaskTemplate.ContainerSpec.Secrets}}{{if eq .File.Name "postgres-drain"}}{{.SecretName}}{{end}}{{end}}' waggle_worker)
		# Of a machine that died, what no copy had is reported as lost.
		[[ $(property "$name" .state) != ready ]] || how+=(-drained)
		docker service create --quiet --detach --no-resolve-image --name "$service" --label com.waggle.system=waggle --no-healthcheck \
			--network waggle-store --secret "source=${secret:-waggle-postgres-drain},target=postgres-drain" --constraint node.labels.waggle.worker==true \
			--restart-condition on-failure --restart-delay 10s "$image" retire "${how[@]}" >/dev/null
	fi
	return 1
}

# forget removes nodes that are down and whose machine is in no group any more.
forget() {
	local node name kind
	while IFS=$'\t' read -r node name kind; do
		if [[ $kind = manager ]]; then docker node demote "$node" >/dev/null || continue; fi
		docker node rm --force "$node" >/dev/null && say "$name is gone and forgotten"
	done < <(jq -r --argjson members "$members" '($members | map(.name)) as $known
		| .[] | select(.state == "down" and (.name | IN($known[]) | not)) | [.node, .name, .kind] | @tsv' <<<"$nodes")
}

# everywhere succeeds if every node has the image; Swarm itself is asked.
everywhere() {
	local image=$1 service=waggle-probe wanted have=0 tasks
	wanted=$(jq '[.[] | select(.state == "ready" and .availability == "active")] | length' <<<"$nodes")
	docker service rm "$service" >/dev/null 2>&1 || true
	docker service create --quiet --detach --no-resolve-image --name "$service" --mode global-job --restart-condition none --no-healthcheck \
		"$image" help >/dev/null
	for _ in {1..30}; do
		tasks=$(docker service ps "$service" --format '{{.CurrentState}}')
		have=$(grep -c '^Complete' <<<"$tasks" || true)
		if (($(grep -cE '^(Complete|Rejected|Failed)' <<<"$tasks" || true) >= wanted)); then break; fi
		sleep 1
	done
	docker service rm "$service" >/dev/null
	((have >= wanted))
}

# unlock takes a deploy lock away whose holder is a machine that is no ready node any more.
unlock() {
	local holder
	holder=$(docker config inspect --format '{{index .Spec.Labels "com.waggle.holder"}}' waggle-deploy-lock 2>/dev/null) || return 0
	jq -e --arg name "${holder#*@}" 'any(.[]; .name == $name and .state == "ready")' <<<"$nodes" >/dev/null || docker config rm waggle-deploy-lock >/dev/null
}

# restore_state takes the passwords and keys of earlier runs. That there are none must be certain: new ones would not fit.
restore_state() {
	local complaint
	install -d -m 700 "$kept"
	if complaint=$(aws s3api head-object --bucket "$STATE" --key state.tar.gz 2>&1 >/dev/null); then
		aws s3 cp --only-show-errors "s3://$STATE/state.tar.gz" - | tar -C "$kept" -xz
	elif [[ $complaint != *404* ]]; then
		die "reading s3://$STATE/state.tar.gz: $complaint"
	fi
}

save_state() {
	tar -C "$kept" -cz . | aws s3 cp --only-show-errors --sse aws:kms - "s3://$STATE/state.tar.gz"
	put_parameter basic-auth-password SecureString <"$kept/local/basic-auth-password"
}

# prepare_database makes the roles in RDS, whose certificate is one of Amazon's own authority.
prepare_database() {
	local release=$1 secret statements=$opt/roles.sql
	curl -fsS --proto =https --max-time 30 -o "$opt/rds.pem" "https://truststore.pki.rds.amazonaws.com/$AWS_DEFAULT_REGION/$AWS_DEFAULT_REGION-bundle.pem" &&
		secret=$(aws secretsmanager get-secret-value --secret-id "$DATABASE_SECRET" --query SecretString --output text) &&
		(cd "$release" && umask 077 && WAGGLE_STATE=$kept ./waggle roles >"$statements") &&
		PGPASSWORD=$(jq -r .password <<<"$secret") psql --quiet --no-psqlrc --file "$statements" \
			"host=$DATABASE_HOST user=$(jq -r .username <<<"$secret") dbname=postgres sslmode=verify-full sslrootcert=$opt/rds.pem" >"$opt/up.log" 2>&1 &&
		rm "$statements"
}

# deploy brings the system up when what it is made of has changed. A Swarm config says what was deployed last.
deploy() {
	local release=$opt/$CHECKSUM role wanted mark result=0 needed=(edge capture worker) database=()
	if [[ $DATABASE_HOST = none ]]; then needed+=(store); else database=(POSTGRES_HOSTS="$DATABASE_HOST" POSTGRES_CA="$opt/rds.pem"); fi
	for role in "${needed[@]}"; do
		if [[ -z $(of ".role == \"$role\" and .state == \"ready\" and .labels[\"waggle.$role\"] == \"true\"" name) ]]; then
			status "waiting for a machine with role $role"
			return
		fi
	done
	if [[ ! -d $release ]]; then
		status "waiting for release $KEY"
		return
	fi
	if [[ $POLLS != none ]]; then aws s3 cp --only-show-errors "s3://$BUCKET/$POLLS" "$release/functions/polls.json"; fi
	wanted=$({
		parameter settings
		cat "$release/functions/polls.json"
		of '.labels["waggle.capture"] == "true"' name | sort
	} | sha256sum)
	mark=waggle-aws-${wanted:0:12}
	if docker config inspect "$mark" >/dev/null 2>&1; then return; fi
	if ! everywhere "$marker:${CHECKSUM:0:12}"; then
		status "waiting until every machine has release $KEY"
		return
	fi
	unlock
	restore_state
	status "deploying $KEY"
	if [[ $DATABASE_HOST != none ]] && ! prepare_database "$release"; then
		status "preparing the database failed: $(tail -1 "$opt/up.log" | cut -c1-500)"
		return
	fi
	(
		cd "$release"
		env "${database[@]}" WAGGLE_STATE="$kept" PRELOADED=1 PORT=80 GATEWAYS="$(gateways | paste -sd,)" WORKERS="$WORKERS" \
			REDIS_MAXMEMORY="$REDIS_MAXMEMORY" QUEUE_MAXMEMORY="$QUEUE_MAXMEMORY" COPIES="$COPIES" PUBLIC_ORIGINS="${PUBLIC_ORIGINS/#none/}" ./waggle up >"$opt/up.log" 2>&1
	) || result=$?
	# Also after a failure: the Swarm has the passwords by then.
	[[ ! -f $kept/local/basic-auth-password ]] || save_state
	if ((result)); then
		status "deploying $KEY failed: $(tail -1 "$opt/up.log" | cut -c1-500)"
		return
	fi
	docker config ls --quiet --filter name=waggle-aws- | xargs --no-run-if-empty docker config rm >/dev/null
	docker config create --label com.waggle.system=waggle "$mark" - <<<"$KEY" >/dev/null
	status "up: $KEY"
}

load_machine
[[ $(docker node inspect self --format '{{.ManagerStatus.Leader}}' 2>/dev/null) = true ]] || exit 0
load_settings
look
publish
changed=no
label
[[ $changed = no ]] || look
end_machines
forget
deploy
