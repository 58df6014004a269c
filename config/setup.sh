#!/bin/sh
# Brings what is missing before tandem runs or is tested: Debian packages, npm packages, the addon.
# Idempotent: says what it does, takes a second when nothing is missing. Without root it names the
# packages to install and stops. Not a deployment tool: production machines get packages.
#
#   sh config/setup.sh run|test|bench
set -eu
cd "$(dirname "$0")/.."
what=${1:-run}

# Needed to build and run.
packages="g++ cmake ninja-build pkg-config libopus-dev libspandsp-dev libspeexdsp-dev ffmpeg espeak-ng"
# Real peers for the tests and benches.
case $what in
  test) packages="$packages sip-tester dnsmasq-base baresip-core kamailio kamailio-tls-modules tcpdump iproute2" ;;
  bench) packages="$packages sip-tester kamailio kamailio-tls-modules rtpengine-daemon" ;;
esac

say() { echo "set-up: $*" >&2; }

missing=
installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null || true)
for package in $packages; do
  echo "$installed" | grep -q "^$package installed$" || missing="$missing $package"
done
if [ -n "$missing" ]; then
  if ! command -v apt-get >/dev/null 2>&1; then
    say "this is not Debian; install by your own means what Debian calls:$missing"
    exit 1
  fi
  if [ "$(id -u)" != 0 ]; then
    say "missing Debian packages and no root to install them; run:"
    say "  sudo apt-get install --no-install-recommends$missing"
    exit 1
  fi
  say "installing Debian packages:$missing"
  log=$(mktemp)
  export DEBIAN_FRONTEND=noninteractive
  # Peers are started by the tests themselves, on loopback; nothing may start as a service.
  RUNLEVEL=1; export RUNLEVEL
  if ! { apt-get update -q && apt-get install -y -q --no-install-recommends $missing; } >"$log" 2>&1; then
    tail -n 20 "$log" >&2
    say "apt-get failed (whole output: $log)"
    exit 1
  fi
  rm -f "$log"
fi

# npm ci runs again only when the lock file changed since it last finished.
stamp=node_modules/.tandem-lock
lock=$(cksum <package-lock.json)
if [ ! -f "$stamp" ] || [ "$(cat "$stamp")" != "$lock" ]; then
  say "installing npm packages (npm ci)"
  # npm before 7 cannot read this lock file; a newer one is brought for this step only.
  case $(npm --version) in
    [0-6].*) npx --yes -p npm@8 npm ci --no-audit --no-fund --loglevel=error >&2 ;;
    *) npm ci --no-audit --no-fund --loglevel=error >&2 ;;
  esac
  # The test runner compiles its set of plug-ins (.taprc) once.
  PATH=$PWD/node_modules/.bin:$PATH tap build >/dev/null 2>&1 || true
  echo "$lock" >"$stamp"
fi
PATH=$PWD/node_modules/.bin:$PATH
major=$(node -p 'process.versions.node.split(".")[0]')
if [ "$major" -lt 24 ]; then
  say "node_modules/.bin/node is version $major, not 24: npm did not run the node package's install script"
  exit 1
fi

# Ninja knows what changed; configuring is needed once.
if [ ! -f native/build/build.ninja ]; then
  say "configuring the media engine"
  cmake -S native -B native/build -G Ninja -DCMAKE_BUILD_TYPE=Release >/dev/null
fi
if ! ninja -C native/build -n | grep -q 'no work to do'; then
  say "building the media engine"
  ninja -C native/build >&2
fi
