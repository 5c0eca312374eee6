#!/bin/sh
# Fills the targets' corpora from the fixtures, so that these are not stored twice. Files are cut short, so
# that mutations often change frame headers.
set -eu
cd "$(dirname "$0")"
fixtures=../tests/fixtures
seed() {
    mkdir -p "corpus/$1"
    for file in "$fixtures"/$2; do
        name=$(basename "$file")
        # The first frames of a fixture are as useful as all of them.
        head -c 20000 "$file" > "corpus/$1/$name"
    done
}
seed kafka 'kafka/*.log'
seed chronik 'chronik/*.wal'
seed splitter 'kafka/*.log'
seed splitter 'chronik/*.wal'
# A bundle is opened from its end, so the whole file is needed.
mkdir -p corpus/bundle
cp "$fixtures"/bundle/*.tar corpus/bundle/
