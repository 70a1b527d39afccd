# Waggle's commands; README.md says what each is for. Settings are given as `make up NAME=value`.
SHELL := /bin/bash
.DEFAULT_GOAL := help

DEPLOY := deploy/bootstrap.sh

.PHONY: help up down purge status drain remove retire rotate rollback prune backup restore roles capacity polls codes preview release summary verify cluster cluster-down test unit e2e clouds liveness copies operate arm64 fuzz lint voters bench

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## bring the whole system up on this machine's Swarm (PORT=8080, TLS_CERT=file TLS_KEY=file), or on the machines of INVENTORY=cluster.yml
	@$(DEPLOY) up

down: ## stop it and keep the votes and queued calls
	@$(DEPLOY) down

purge: ## stop it and delete everything, the votes included (asks first; YES=1 does not)
	@$(DEPLOY) purge

status: ## what runs, and whether every vote is accounted for
	@$(DEPLOY) status

drain: ## take a capture node out of service without losing a vote (NODE=name)
	@$(DEPLOY) drain

remove: ## take a node out of the Swarm, drained and demoted first (NODE=name)
	@$(DEPLOY) remove

retire: ## write off a node that is lost for good (NODE=name)
	@$(DEPLOY) retire

rotate: ## give a secret a new value while the system runs (SECRET=name or all)
	@$(DEPLOY) rotate

rollback: ## deploy the version before the one that runs
	@$(DEPLOY) rollback

prune: ## remove our own old images from every node, but for those of the running version and the one before
	@$(DEPLOY) prune

backup: ## write passwords, keys and votes, encrypted, to a new folder (OUT=folder PASSPHRASE_FILE=file)
	@$(DEPLOY) backup

restore: ## take them back (FROM=folder PASSPHRASE_FILE=file WHAT=state, or WHAT=votes; WHAT=votes AT=moment, from the archive)
	@$(DEPLOY) restore

roles: ## print the SQL that prepares an external Postgres
	@$(DEPLOY) roles

capacity: ## say what machines an event needs (VOTES=5000000 MINUTES=10)
	@$(DEPLOY) capacity

polls: ## check functions/polls.json strictly and print what `make up` would change
	@$(DEPLOY) polls

codes: ## make ballot codes for a poll of mode once (POLL=slug COUNT=1000 OUT=folder BALLOT=https://vote.example/)
	@$(DEPLOY) codes

preview: ## show the pages of functions/polls.json on this machine, without a system (PORT=8080)
	@$(DEPLOY) preview

summary: ## recount the votes and print the signed paper for an announcement (POLL=slug)
	@$(DEPLOY) summary

verify: ## check such a paper, and that no vote of it has changed (SUMMARY=file, KEY=public key, OFFLINE=1)
	@$(DEPLOY) verify

release: ## make dist/waggle-VERSION-linux-ARCH.tar for this machine's architecture: images, deploy program, stack files, checksums, bill of materials
	@$(DEPLOY) release

cluster: ## make a Swarm of NODES=3 node containers on this machine, to be used with `make up CLUSTER=waggle`
	@$(DEPLOY) cluster

cluster-down: ## remove it without a trace
	@$(DEPLOY) cluster-down

test: export FUZZTIME ?= 10s
test: unit e2e fuzz ## run every test but the long ones: `make clouds`, `liveness`, `copies` and `operate`, and the figures

unit: ## vet, unit and integration tests (real Redis and Postgres as child processes)
	go vet ./... && go vet -tags 'e2e copies figures' ./...
	go test -race -timeout 10m ./...
	go test -tags e2e -run TestEveryRowOfThePageIsTried ./deploy/lab/operate
	go test -run '^$$' -bench . -benchtime 1x ./provider/... ./worker/... ./functions/... ./template/... >/dev/null  # so that benchmarks cannot rot

e2e: ## end-to-end tests on real Swarms of node containers; this machine's own Swarm is never touched
	go test -tags e2e -p 1 -count=1 -v -timeout 60m ./deploy/images ./deploy/lab/cluster ./deploy/machines ./deploy/lab/e2e

clouds: ## the machines of deploy/vagrant and of deploy/aws become whole systems, as node containers, by their own scripts
	go test -tags e2e -p 1 -count=1 -v -timeout 60m ./deploy/vagrant ./deploy/aws

liveness: ## slow parts are left alone, hung ones replaced, on a whole system under votes (15 minutes)
	go test -tags e2e -count=1 -v -timeout 30m ./deploy/lab/liveness

copies: ## a capture node is frozen 20 times, cut off and lost for good under voters, and both disks at once (35 minutes)
	E2E_LONG=1 go test -tags 'e2e copies' -count=1 -v -timeout 60m -run TestCopies ./deploy/lab/e2e

arm64: ## compile a gateway and function vote for arm64 and ask them for an answer (qemu-user-static has to be installed)
	go test -tags qemu -count=1 -v -timeout 30m -run TestArm64 ./deploy/release

operate: ## what an operator does in years, losses of managers and a Postgres of others, under votes, by docs/operate.md (an hour)
	go test -tags e2e -count=1 -v -timeout 3h ./deploy/lab/operate

fuzz: ## run each fuzz target for FUZZTIME=30s, two per processor at a time
	.ci/fuzz

lint: ## static checks (golangci-lint v2)
	golangci-lint run ./...

voters: ## load the running system and judge it: make voters ARGS="-voters 20000"
	@$(DEPLOY) voters $(ARGS)

bench: ## compare the gateway with other proxies in one run, then measure the whole chain
	go run ./deploy/lab/bench $(ARGS)
