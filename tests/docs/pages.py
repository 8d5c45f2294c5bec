"""A document, read: its fenced blocks with what marks them, its links, its anchors, its inline commands."""

import json
import re
import shlex
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(\s*)(```+|~~~+)\s*(\S*)")
STAGE = re.compile(r"<!--\s*stage:\s*(.+?)\s*-->")
EXITS = re.compile(r"<!--\s*exits\s+([\d ]+?)\s*-->")
UNRUN = re.compile(r"[Nn]ot run by the tests[:,]?\s*([^)]+)", re.S)
KNOWN = {"sh", "console", "json", "toml", "yaml", "nginx", "caddy", "text", "rust", "ini", "dockerfile", "powershell"}
# A block without a kind is not looked into: none may look like something to type.
TYPED = re.compile(r"^\s*(?:\$ )?(?:relatch|claude|cargo|bash|codex|gemini|systemctl|docker|curl|npm|pip|pipx|brew) ")


class Wrong(Exception):
    """Something in the documents is not so."""


class Block:
    def __init__(self, kind, line, text, unrun=None, exits=None, stage=None):
        self.kind, self.line, self.text, self.unrun, self.exits, self.stage = kind, line, text, unrun, exits, stage

    def commands(self):
        """Each command with the lines that are to be printed by it (`console`), or with none (`sh`)."""
        found = []
        lines = iter(self.text.splitlines())
        for line in lines:
            prompt = line.startswith("$ ") if self.kind == "console" else bool(line.strip()) and not line.lstrip().startswith("#")
            if not prompt:
                if self.kind == "console" and found and line.strip():
                    found[-1][1].append(line)
                continue
            command = line[2:] if self.kind == "console" else line
            while command.endswith("\\"):
                command = command[:-1].rstrip() + " " + next(lines).strip()
            found.append((command.strip(), []))
        return found

    def clients(self):
        """What a client would start or call, if this is (a part of) its configuration."""
        if "relatch" not in self.text.lower() and ":7332" not in self.text:
            return []
        try:
            read = tomllib.loads(self.text) if self.kind == "toml" else json.loads(self.text)
        except ValueError as fault:
            return [f"unreadable: {fault}"]
        found = []

        def walk(node):
            if not isinstance(node, dict):
                return
            url = node.get("url") or node.get("httpUrl") or node.get("serverUrl")
            if str(node.get("command", "")).split("/")[-1] == "relatch":
                found.append(shlex.join(["relatch", *node.get("args", [])]))
            elif isinstance(url, str) and ":7332/" in url:
                headers = node.get("headers") or node.get("http_headers") or {}
                found.append(shlex.join(["http", url, *(f"{name}: {value}" for name, value in headers.items())]))
            for value in node.values():
                walk(value)

        walk(read)
        return found


class Page:
    def __init__(self, name):
        self.name, self.path = name, ROOT / name
        self.text = self.path.read_text()
        self.made = "<!-- Made from" in self.text
        self.blocks, self.prose = [], []
        self._read()

    def _read(self):
        # `before` is the paragraph that stands before a block.
        fence, kind, begun, inside, before, exits, gap = None, "", 0, [], [], None, False
        for number, line in enumerate(self.text.splitlines(), 1):
            match = FENCE.match(line)
            if fence is None and match:
                fence, kind, begun, inside = match.group(2), match.group(3), number, []
            elif fence is not None and line.strip() == fence:
                marked = UNRUN.search(" ".join(before))
                unrun = marked.group(1).strip().rstrip(".:") if marked else None
                self.blocks.append(Block(kind, begun, "\n".join(inside), unrun, exits))
                fence, before, exits, gap = None, [], None, False
            elif fence is not None:
                inside.append(line)
            else:
                self.prose.append((number, line))
                if stage := STAGE.search(line):
                    self.blocks.append(Block("", number, "", stage=stage.group(1)))
                elif found := EXITS.search(line):
                    exits = [int(code) for code in found.group(1).split()]
                elif line.strip():
                    before, gap = ([] if gap else before) + [line.strip()], False
                else:
                    gap = True
        if fence is not None:
            raise Wrong(f"{self.name}:{begun}: a block does not end")

    def faults(self):
        """What is wrong with the marks themselves."""
        if self.made:
            return
        for block in self.blocks:
            if block.stage:
                continue
            if block.kind not in KNOWN and block.kind:
                yield block.line, f"`{block.kind}` is no kind of block that is known here"
            if block.kind == "" and any(TYPED.match(line) for line in block.text.splitlines()):
                yield block.line, "a block with something to type has to be `sh` or `console`"


def prose_commands(page):
    """Commands of relatch in running text: `relatch …` between backticks."""
    if page.name == "docs/reference/commands.md":
        return
    for number, line in page.prose:
        for span in re.findall(r"(?<!`)`(relatch [^`]+)`(?!`)", line):
            if "…" in span and span.rstrip().endswith("…"):
                span = span.rstrip()[:-1]
            try:
                words = shlex.split(span.replace("\\|", "|"))
            except ValueError:
                words = span.split()
            yield number, words
    # Lines of generated examples and the like are run, not parsed.


def slug(title):
    """The anchor of a heading, as GitHub and mdBook both make it."""
    title = re.sub(r"[`*]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title)).strip().lower()
    return re.sub(r"[^\w\- ]", "", title).replace(" ", "-")


def anchors(path):
    seen, found, fenced = {}, set(), False
    for line in path.read_text().splitlines():
        if FENCE.match(line):
            fenced = not fenced
        match = None if fenced else re.match(r"#{1,6}\s+(.*)", line)
        if match:
            name = slug(match.group(1))
            n = seen.get(name, 0)
            seen[name] = n + 1
            found.add(name if n == 0 else f"{name}-{n}")
    return found
