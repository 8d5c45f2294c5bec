"""What the binary is made of: a CycloneDX bill, the notices of its parts, and whether their licences are fine.

Asks cargo alone. It decides which licences may be in what is handed out: permissive ones; of a choice, one of them is
enough. The bill names what is in the binary; the licences of what only builds it (macros, build scripts) are read, too.
"""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
import uuid
from datetime import datetime, timezone
from pathlib import Path

PERMISSIVE = {
    "0BSD", "Apache-2.0", "Apache-2.0 WITH LLVM-exception", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "ISC", "MIT",
    "MIT-0", "blessing", "Unicode-3.0", "Unlicense", "Zlib",
}  # fmt: skip
# Files in which a crate says what has to go along with it.
NOTICE = re.compile(r"(?i)^(licen[cs]e|copying|notice|copyright|unlicense)")


class Refused(Exception):
    """A part whose licence may not be in what is handed out."""


def bill(root, target, version, epoch):
    """The bill as CycloneDX 1.6 JSON; the same sources give the same bytes."""
    parts = shipped(root, target)
    check(parts + crates(root, target, "normal,build"))
    lock = {(p["name"], p["version"]): p for p in tomllib.loads((root / "Cargo.lock").read_text())["package"]}
    refs = {(p["name"], p["version"]): reference(p) for p in parts}
    components, edges = [], []
    for part in parts:
        key = (part["name"], part["version"])
        entry = {
            "type": "application" if part["name"] == "relatch" else "library",
            "bom-ref": refs[key],
            "name": part["name"],
            "version": part["version"],
            "licenses": [{"expression": part["licence"]}],
        }
        if part["description"]:
            entry["description"] = " ".join(part["description"].split())
        if part["purl"]:
            entry["purl"] = part["purl"]
        locked = lock.get(key, {})
        if "checksum" in locked:
            entry["hashes"] = [{"alg": "SHA-256", "content": locked["checksum"]}]
        components.append(entry)
        # In the lock file a dependency is `name`, or `name version` where there are several.
        needs = {dependency(words, lock) for words in locked.get("dependencies", [])} & refs.keys()
        needs |= {(p["name"], p["version"]) for p in parts if p["inside"] == part["name"]}
        edges.append({"ref": refs[key], "dependsOn": sorted(refs[need] for need in needs)})
    [program] = [entry for entry in components if entry["name"] == "relatch"]
    body = {
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": program,
            "properties": [{"name": "target", "value": target}],
        },
        "components": [entry for entry in components if entry is not program],
        "dependencies": edges,
    }
    number = uuid.UUID(bytes=hashlib.sha256(json.dumps(body).encode()).digest()[:16], version=4)
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "serialNumber": f"urn:uuid:{number}", "version": 1}
    return (json.dumps(head | body, indent=1, ensure_ascii=False) + "\n").encode()


def notices(root, target):
    """What the licences of all parts want to be handed on, each text once."""
    texts = {}
    for part in shipped(root, target):
        if part["folder"] is None or part["folder"].is_relative_to(root):
            continue
        name = f"{part['name']} {part['version']} ({part['licence']})"
        found = sorted(path for path in part["folder"].iterdir() if path.is_file() and NOTICE.match(path.name))
        if not found:
            raise Refused(f"`{part['name']}` {part['version']} brings no text of its licence ({part['licence']})")
        for path in found:
            texts.setdefault(path.read_text(errors="replace").strip(), []).append(name)
    pages = ["relatch contains the following libraries. It is itself under Apache-2.0 OR MIT."]
    pages.append((Path(__file__).parent / "notices.txt").read_text().strip())
    for text, names in texts.items():
        pages.append("\n".join(dict.fromkeys(names)) + "\n\n" + text)
    rule = "\n\n" + "=" * 78 + "\n\n"
    return (rule.join(pages) + "\n").encode()


def check(parts):
    """Refuses parts without a permissive licence, and names them all."""
    bad = sorted({f"`{p['name']}` {p['version']} is under `{p['licence']}`" for p in parts if not permissive(p["licence"])})
    if bad:
        raise Refused("this may not be in what is handed out:\n  " + "\n  ".join(bad))


def permissive(expression):
    """Whether an SPDX expression can be met with permissive licences alone."""
    # `A/B` is how crates wrote `A OR B` once.
    tokens = re.findall(r"\(|\)|[^\s()]+", (expression or "").replace("/", " OR "))
    tokens.reverse()

    def alternatives():
        fine = conjunction()
        while tokens and tokens[-1] == "OR":
            tokens.pop()
            # Both sides are read, whatever the first one says.
            fine = conjunction() or fine
        return fine

    def conjunction():
        fine = single()
        while tokens and tokens[-1] == "AND":
            tokens.pop()
            fine = single() and fine
        return fine

    def single():
        token = tokens.pop()
        if token == "(":
            fine = alternatives()
            return tokens.pop() == ")" and fine
        if tokens and tokens[-1] == "WITH":
            tokens.pop()
            token = f"{token} WITH {tokens.pop()}"
        return token in PERMISSIVE

    try:
        return alternatives() and not tokens
    except IndexError:
        # It ends too early: nobody knows what it would say.
        return False


def shipped(root, target):
    """Every part of the binary: crates, and what comes with them or with the compiler and is no crate."""
    parts = crates(root, target, "normal,no-proc-macro")
    compiler = dict(line.split(": ", 1) for line in run(root, "rustc", "-vV").splitlines() if ": " in line)
    [sqlite] = [p for p in parts if p["name"] == "libsqlite3-sys"]
    header = (sqlite["folder"] / "sqlite3/sqlite3.h").read_text(errors="replace")
    libraries = Path(run(root, "rustc", "--print", "target-libdir", "--target", target).strip())
    musl = re.search(rb"\x00(1\.\d+\.\d+)\x00", (libraries / "self-contained/libc.a").read_bytes())
    # The words on SQLite are the blessing at the head of its source; musl, the unwinder and the standard library come with rustc.
    outside = [
        ("sqlite", re.search(r'#define SQLITE_VERSION\s+"([^"]+)"', header).group(1), "blessing", "libsqlite3-sys"),
        ("musl", musl.group(1).decode() if musl else "unknown", "MIT", "relatch"),
        ("libunwind", compiler["LLVM version"], "Apache-2.0 WITH LLVM-exception", "relatch"),
        ("rust-std", compiler["release"], "MIT OR Apache-2.0", "relatch"),
    ]
    for name, version, licence, inside in outside:
        parts.append(part(name, version, licence, None, None, f"pkg:generic/{name}@{version}", inside))
    return parts


def crates(root, target, edges):
    """The crates that the program is built from, as cargo resolves them for `target`."""
    tree = run(root, "cargo", "tree", "--locked", "-p", "relatch", "--target", target, "-e", edges, "--prefix", "none", "-f", "{p}")
    metadata = run(root, "cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", target)
    known = {(p["name"], p["version"]): p for p in json.loads(metadata)["packages"]}
    wanted = sorted({tuple(line.replace(" v", " ", 1).split()[:2]) for line in tree.splitlines() if line.strip()})
    found = []
    for key in wanted:
        package = known[key]
        purl = f"pkg:cargo/{key[0]}@{key[1]}" if package["source"] else None
        licence = (package["license"] or "").replace("/", " OR ")
        folder = Path(package["manifest_path"]).parent
        found.append(part(*key, licence, package["description"], folder, purl, None))
    return found


def part(name, version, licence, description, folder, purl, inside):
    return dict(name=name, version=version, licence=licence, description=description, folder=folder, purl=purl, inside=inside)


def reference(part):
    return part["purl"] or f"{part['name']}@{part['version']}"


def dependency(words, lock):
    name, *version = words.split()
    return (name, version[0]) if version else next(key for key in lock if key[0] == name)


def run(root, *line):
    done = subprocess.run(line, cwd=root, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"packaging: `{' '.join(line)}` ended with {done.returncode}\n{done.stderr.strip()}")
    return done.stdout
