#!/bin/sh
# Compiles a function: build.sh CONTEXT OUT, where CONTEXT is the build context that faas-cli lays out.
#
# In:  the template's files and, below CONTEXT/function, the handler as its author has it.
# Out: OUT/handler, the function, and OUT/healthcheck.
#
# The handler's folder stays the root of its module, so that its go directive, go.sum, replace, vendor/ and sub-packages
# mean what they mean to its author. The template's packages are put into that module, in a folder of their own, and
# each of their files asks for the language version it is written in, whatever go.mod says.
set -eu
context=$1 out=$2
language=go1.24
folder=go_http_template

refuse() {
  echo "go-http: $*" >&2
  exit 1
}

cd "$context/function"
export GOWORK=off CGO_ENABLED=0
[ ! -e "$folder" ] || refuse "the handler has a folder $folder, where the template's packages go: rename it"
[ -f go.mod ] || go mod init function 2>/dev/null || refuse "go mod init failed in the handler's folder"

outside=$(sed -n 's|^.*=>[[:space:]]*\(\.\./[^[:space:]]*\).*$|\1|p' go.mod | head -n 1)
[ -z "$outside" ] || [ -d vendor ] || [ -d "$outside" ] ||
  refuse "go.mod replaces a module by $outside, and only the handler's folder is built: move it inside, or run go mod vendor"
if [ -d vendor ]; then
  [ -f vendor/modules.txt ] || refuse "vendor/ has no modules.txt: run go mod vendor"
  export GOFLAGS="${GOFLAGS:-} -mod=vendor"
fi

# faas-cli lays the handler over the template's sample, and what the author has deleted or renamed comes back from there.
is_sample() { [ -f "$1" ] && [ "$(sha256sum <"$1")" = "$(sed -n "s| \*\?$1\$| -|p" "$context/sample.sum")" ]; }
if is_sample handler.go; then
  if grep -lE '^func (New|Handle)\(' -- *.go | grep -qvx handler.go; then rm handler.go; fi
fi
if is_sample handler_test.go && ! is_sample handler.go; then
  echo "go-http: left out the sample's handler_test.go, since the handler is no longer the sample"
  rm handler_test.go
fi

form=
for file in *.go; do
  case $file in *_test.go | "*.go") continue ;; esac
  if grep -q '^func New(' "$file"; then form=go_http_new; fi
  if grep -q '^func Handle(' "$file"; then form=${form:-go_http_handle}; fi
  if grep -q '^package main\b' "$file"; then refuse "$file: package main cannot be imported: name it package function"; fi
done
[ -n "$form" ] ||
  refuse "the handler's folder needs func Handle(w http.ResponseWriter, r *http.Request) or func New(ctx context.Context) (http.Handler, error)"

if [ "${TEST_ENABLED:-true}" != false ]; then
  go test ./... || refuse "the handler's tests fail; --build-arg TEST_ENABLED=false builds without them"
fi

module=$(go list -m)
mkdir "$folder"
for file in "$context"/*.go "$context"/*/*.go; do
  case $file in "$context"/function/* | *_test.go) continue ;; esac
  to=$folder/${file#"$context"/}
  mkdir -p "$(dirname "$to")"
  {
    grep -q '^//go:build ' "$file" || printf '//go:build %s\n\n' "$language"
    sed -e "s|^//go:build |&$language \&\& |" \
      -e "s|\"waggle/template/go-http/function\"|\"$module\"|" \
      -e "s|\"waggle/template/go-http/|\"$module/$folder/|" "$file"
  } >"$to"
done
go build -trimpath -tags "$form" -ldflags "-s -w" -o "$out/handler" "./$folder"
go build -trimpath -ldflags "-s -w" -o "$out/healthcheck" "./$folder/healthcheck"
