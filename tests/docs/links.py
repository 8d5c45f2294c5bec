"""Links lead somewhere, and the book has every page once."""

import re
import subprocess
import tomllib

from pages import FENCE, ROOT, Wrong, anchors

LINK = re.compile(r"(?<!\\)!?\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")


def documents():
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return sorted(ROOT / name for name in listed.stdout.split() if (ROOT / name).exists())


def links():
    for path in documents():
        fenced = False
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if FENCE.match(line):
                fenced = not fenced
            if fenced:
                continue
            for target in LINK.findall(re.sub(r"`[^`]*`", "", line) if "`](" not in line else line):
                if re.match(r"[a-z]+:", target):
                    continue
                where = f"{path.relative_to(ROOT)}:{number} → {target}"
                yield where, lambda path=path, target=target: follow(path, target)


def follow(path, target):
    name, _, anchor = target.partition("#")
    to = (path.parent / name).resolve() if name else path
    if not to.exists():
        raise Wrong("there is no such file")
    docs = ROOT / "docs"
    if path.is_relative_to(docs) and not to.is_relative_to(docs):
        raise Wrong("a page of the book links out of the book: the link would lead nowhere there")
    if anchor and to.suffix == ".md" and anchor not in anchors(to):
        raise Wrong(f"there is no heading `#{anchor}` in {to.relative_to(ROOT)}")


def book():
    summary = (ROOT / "docs/SUMMARY.md").read_text()
    listed = [target for target in LINK.findall(summary)]
    pages = sorted(str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md") if path.name != "SUMMARY.md")

    def configured():
        settings = tomllib.loads((ROOT / "docs/book.toml").read_text())
        if settings.get("book", {}).get("src") != ".":
            raise Wrong("the book's source has to be the folder itself")

    def once(name):
        if listed.count(name) != 1:
            raise Wrong(f"stands {listed.count(name)} times in SUMMARY.md")

    yield "docs/book.toml", configured
    for name in pages:
        yield f"docs/SUMMARY.md has {name}", lambda name=name: once(name)
