"""Checks that crates depend on each other only as docs/design.md says."""

import json
import subprocess
import sys

ALLOWED = {
    "format": [],
    "index": ["format"],
    "fetch": ["format"],
    "cache": ["fetch", "format"],
    "convert": ["index", "format", "fetch"],
    "image": ["cache", "fetch", "index", "format"],
    "fuse": ["image", "index"],
    "cli": ["cache", "convert", "fetch", "format", "fuse", "image", "index"],
    "testkit": ["format"],
}

command = ["cargo", "metadata", "--no-deps", "--format-version", "1"]
packages = json.loads(subprocess.check_output(command))["packages"]
wrong = []
for package in packages:
    name = package["name"].removeprefix("chunkfs-")
    if name in ("examples", "benches"):
        continue
    if name not in ALLOWED:
        wrong.append(f"{package['name']} is not listed in .ci/arrows.py")
        continue
    for dependency in package["dependencies"]:
        target = dependency["name"].removeprefix("chunkfs-")
        is_ours = dependency["name"].startswith("chunkfs-")
        if is_ours and dependency["kind"] is None and target not in ALLOWED[name]:
            wrong.append(f"{package['name']} must not depend on {dependency['name']}")
print("\n".join(wrong) or f"{len(packages)} packages, all arrows as they should be")
sys.exit(bool(wrong))
