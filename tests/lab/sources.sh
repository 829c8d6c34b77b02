#!/usr/bin/env bash
# Prints the sources.list of a Debian release with its updates, from this host's own mirrors where it
# has that release, else from Debian's:
#
#   tests/lab/sources.sh SUITE COMPONENT...
set -euo pipefail

# The mirror of release $1, at path $2 of Debian's own.
mirror() {
    local own
    own=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk -v "release=$1" '$1 == release && $2 == "main" && !uri { uri = $3 } END { print uri }')
    echo "${own:-http://deb.debian.org/$2}"
}

suite=$1
shift
main=$(mirror "$suite" debian/)
security=$(mirror "$suite-security" debian-security/)
for release in "$main $suite" "$main $suite-updates" "$security $suite-security"; do
    echo "deb $release $*"
done
