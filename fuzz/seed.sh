#!/bin/sh
# Fills the targets' corpora with the fixtures: they are not kept twice. The small ones, so that mutations hit heads often.
set -eu
cd "$(dirname "$0")"
fixtures=../tests/fixtures
seed() {
    mkdir -p "corpus/$1"
    for file in "$fixtures"/$2; do
        name=$(basename "$file")
        # The first frames of a fixture say as much as all of them.
        head -c 20000 "$file" > "corpus/$1/$name"
    done
}
seed kafka 'kafka/*.log'
seed chronik 'chronik/*.wal'
seed splitter 'kafka/*.log'
seed splitter 'chronik/*.wal'
# A bundle begins with its end: all of it.
mkdir -p corpus/bundle
cp "$fixtures"/bundle/*.tar corpus/bundle/
