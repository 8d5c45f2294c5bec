"""Compiles the one static binary of which everything is made, by what calls are known to go through.

`calls.llvm22.profdata.xz` holds how often each part of relatch ran while `packaging/train` played with it. What ran often
is laid out together and compiled for speed, the rest for size. A part that has changed since is compiled as if nothing were
known of it. Parts are found by names that hang on the compiler and on every dependency: `calls.txt` says which, and with
others the binary is compiled without counts.
"""

import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# The counts are of code for this target.
COUNTED_ON = "x86_64-unknown-linux-musl"


def static(root, target, profile, target_dir, features="", counts_into=None):
    """Builds relatch for musl and says where it lies; `counts_into` makes one that writes into this folder how often its parts ran."""
    need_target(target)
    compiler = f"CC_{target.replace('-', '_')}"
    env = dict(os.environ)
    if compiler not in env:
        if not shutil.which("musl-gcc"):
            fail("`musl-gcc` is needed for SQLite and ring: `apt-get install musl-tools`, or name a compiler in " + compiler)
        env[compiler] = "musl-gcc"
    # Panics name their source file; not where it lay on this machine.
    maps = [f"--remap-path-prefix={place}={name}" for place, name in machine(root).items()]
    # Where the program's own addresses stand takes 0.3 MB less; musl can read it since 1.2.4, Rust's own is newer.
    packed = "-Clink-arg=-Wl,-z,pack-relative-relocs"
    # Rust's own linker lays functions out by who calls whom how often, and keeps one of those that are alike.
    linked = [f"-Clink-arg=-B{linker()}", "-Clink-arg=-fuse-ld=lld", "-Clink-arg=-Wl,--icf=all"] if linker().exists() else []
    known, levels = [], []
    if counts_into:
        known = [f"-Cprofile-generate={counts_into}"]
    elif profile == "dist" and target == COUNTED_ON and counts().exists() and counts_fit(root):
        known = [f"-Cprofile-use={unpacked(target_dir)}"]
    elif profile == "dist":
        print(f"packaging: no counts fit this compiler, Cargo.lock and `{target}`: the binary will be slower (`packaging/train`)", file=sys.stderr)
        # The last pass over all crates goes by this one; without counts it has to be a little for speed everywhere.
        levels = ["--config", 'profile.dist.package.relatch.opt-level="s"']
    env["RUSTFLAGS"] = " ".join([env.get("RUSTFLAGS", ""), *maps, packed, *linked, *known]).strip()
    line = ["cargo", "build", "--locked", "--package", "relatch", "--target", target, "--profile", profile, *levels]
    line += ["--features", features] if features else []
    if subprocess.run(line, cwd=root, env=env | {"CARGO_TARGET_DIR": str(target_dir)}).returncode != 0:
        fail(f"`{' '.join(line)}` did not end well")
    folder = "debug" if profile in ("dev", "test") else profile
    return target_dir / target / folder / "relatch"


def machine(root):
    """Folders of this machine that no binary may name, and what stands for each."""
    return {cargo_home() / "registry/src": "/crates", root: "/relatch", sysroot(): "/rust"}


def cargo_home():
    return Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))


def sysroot():
    return run(["rustc", "--print", "sysroot"]).strip()


def counts():
    """Where counts are that this compiler can read."""
    llvm = re.search(r"LLVM version: (\d+)", run(["rustc", "-vV"]))
    return HERE / f"calls.llvm{llvm[1] if llvm else ''}.profdata.xz"


def counted_with(root):
    """What the names of all parts hang on: other ones are found in no counts."""
    lock = hashlib.sha256((root / "Cargo.lock").read_bytes()).hexdigest()
    return f"{run(['rustc', '-vV'])}Cargo.lock: {lock}\n"


def counts_fit(root):
    told = HERE / "calls.txt"
    return told.exists() and told.read_text() == counted_with(root)


def linker():
    """The folder in which a C compiler finds the linker that comes with Rust."""
    return Path(sysroot()) / "lib/rustlib" / host() / "bin/gcc-ld"


def host():
    return re.search(r"host: (\S+)", run(["rustc", "-vV"]))[1]


def unpacked(target_dir):
    """The counts, unpacked. Named after what they are: cargo sees no other change of them."""
    packed = counts().read_bytes()
    place = target_dir / f"calls-{hashlib.sha256(packed).hexdigest()[:16]}.profdata"
    if not place.exists():
        target_dir.mkdir(parents=True, exist_ok=True)
        half = place.with_suffix(f".{os.getpid()}")
        half.write_bytes(lzma.decompress(packed))
        half.replace(place)
    return place


def need_target(target):
    """Rust's standard library for `target`; rustup brings it where it is missing."""
    libraries = Path(run(["rustc", "--print", "target-libdir", "--target", target]).strip())
    if list(libraries.glob("libstd-*.rlib")):
        return
    if not shutil.which("rustup") or subprocess.run(["rustup", "target", "add", target]).returncode != 0:
        fail(f"this Rust has no standard library for `{target}`, and rustup brought none: no static binary can be built here")


def run(line):
    told = subprocess.run([str(word) for word in line], capture_output=True, text=True)
    if told.returncode != 0:
        fail(f"`{' '.join(map(str, line))}` said: {told.stderr.strip() or told.returncode}")
    return told.stdout


def fail(words):
    sys.exit(f"packaging: {words}")
