#!/usr/bin/env bash
# The Autobahn test suite for WebSocket runs on Python 2.7 only, which Debian has not packaged since release 11. This unpacks that
# release's Python into a folder and installs the suite beside it, without touching the system's packages.
# usage: autobahn_setup.sh DIR   ->   DIR/wstest
set -euo pipefail
version=25.10.1
dir=$(realpath -m "${1:?a folder is needed}")
[ -x "$dir/wstest" ] && exit 0
rm -rf "$dir"
mkdir -p "$dir"/{apt/lists/partial,apt/cache/archives/partial,debs,root,site,download}
cd "$dir"

# The mirror is the one that this machine already uses.
mirror=$({ cat /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null || true; } | sed -nE 's/^URIs: *([^ ]+).*/\1/p; s/^deb (\[[^]]*\] )?(http[^ ]+).*/\2/p' | head -1)
[ -n "$mirror" ] || { echo "no Debian mirror in this machine's package sources" >&2; exit 1; }
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror bullseye main" >apt/sources.list
apt() {
  apt-get -qq -o Dir::Etc::sourcelist="$dir/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
    -o Dir::State::lists="$dir/apt/lists" -o Dir::Cache="$dir/apt/cache" -o APT::Sandbox::User=root "$@"
}
apt update
(cd debs && apt download python2.7 python2.7-minimal libpython2.7 libpython2.7-minimal libpython2.7-stdlib libpython2.7-dev python2.7-dev libssl1.1 libffi7)
for deb in debs/*.deb; do dpkg-deb -x "$deb" root; done

cat >python2 <<END
#!/bin/sh
export LD_LIBRARY_PATH=$dir/root/usr/lib/$(uname -m)-linux-gnu PYTHONHOME=$dir/root/usr
export PYTHONPATH=$dir/download/autobahntestsuite-$version:$dir/site
exec $dir/root/usr/bin/python2.7 "\$@"
END
chmod +x python2

fetch() { python3 -m pip download --quiet --disable-pip-version-check --no-deps -d download "$@"; }
# pip runs the old setup.py after the download and fails at it; the archive is all that is wanted.
fetch --no-binary :all: "autobahntestsuite==$version" 2>/dev/null || true
tar -C download -xf "download/autobahntestsuite-$version.tar.gz"
fetch pip==20.3.4 setuptools==44.1.1 wheel==0.37.1
for wheel in download/*.whl; do python3 -m zipfile -e "$wheel" site; done
sed 's/\[accelerate,twisted\]//; /^setuptools/d' "download/autobahntestsuite-$version/autobahntestsuite.egg-info/requires.txt" >requirements.txt
PIP_DISABLE_PIP_VERSION_CHECK=1 ./python2 -m pip install --quiet --no-compile --target site -r requirements.txt
touch site/zope/__init__.py
# Masking in C: in plain Python the suite itself is what the large cases wait for. Without a compiler it only takes longer.
CPATH=$dir/root/usr/include:$dir/root/usr/include/python2.7 PIP_DISABLE_PIP_VERSION_CHECK=1 \
  ./python2 -m pip install --quiet --no-compile --no-deps --no-binary :all: --target site wsaccel==0.6.2 ||
  echo "wsaccel was not built: the large cases will be slow"
cat >wstest.part <<END
#!/bin/sh
exec $dir/python2 -c 'import sys; from autobahntestsuite.wstest import run; sys.argv[0] = "wstest"; run()' "\$@"
END
chmod +x wstest.part
./wstest.part --autobahnversion
mv wstest.part wstest
