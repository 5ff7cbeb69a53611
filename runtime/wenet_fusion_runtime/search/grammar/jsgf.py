"""Parse grammars in the JSpeech Grammar Format (JSGF)."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from wenet_fusion_runtime.console import SHOWN, visible
from wenet_fusion_runtime.search.grammar.expressions import (
    Choice,
    Expression,
    Reference,
    Repeat,
    Rules,
    Series,
    Words,
    check_references,
)

MAGIC = "#JSGF"
MOST_NESTING = 50  # brackets within brackets
_HEADER = re.compile(r"\s*#JSGF\s+V1\.0(\s[^;\n]*)?;")
_TOKEN = re.compile(
    r"(?P<space>\s+|//[^\n]*|/\*.*?\*/)"
    r'|"(?P<quoted>(?:[^"\\\n]|\\.)*)"'
    r"|<(?P<rule>[^<>\s]+)>"
    r"|\{(?P<tag>(?:[^{}\\]|\\.)*)\}"
    r"|/\s*(?P<weight>[^\s/*]+)\s*/"
    r"|(?P<mark>[;=|*+()\[\]])"
    r'|(?P<word>[^\s;=|*+<>()\[\]{}/"]+)',
    re.DOTALL,
)
_UNCLOSED = {
    "/*": "comment /* has no */",
    '"': 'quoted word has no closing "',
    "<": "rule name has no closing >; write <name>, without spaces",
    "{": "tag { has no }",
    "/": "weight is not closed; write it as /3/, before an alternative",
}


class _Token(NamedTuple):
    kind: str  # a group of _TOKEN, or "end"
    text: str
    line: int

    def __str__(self) -> str:
        text = visible(self.text, SHOWN)
        shown = {"rule": f"<{text}>", "weight": f"/{text}/", "end": "the end of the file"}
        return shown.get(self.kind, f"'{text}'")


def parse_jsgf(text: str) -> Rules:
    """Parse a grammar that begins with `#JSGF V1.0;`.

    Supported: public and private rules, sequences, alternatives `|` with weights `/3/`, groups `( )`, optional parts
    `[ ]`, repetitions `*` and `+`, references `<rule>`, `<NULL>` and `<VOID>`, quoted words, comments. Tags `{...}` are
    ignored. Imports and recursive rules are refused.

    Raises:
        ValueError: the message begins with the line.

    >>> parse_jsgf('#JSGF V1.0; grammar lights; public <command> = turn (on | off) the light;').public
    ('command',)
    """
    header = _HEADER.match(text)
    if header is None:
        raise ValueError(f"1: the header is not '#JSGF V1.0;' but '{visible(text.strip().splitlines()[0], SHOWN)}'")
    return _Parser(_tokens(text, header.end())).rules()


def _tokens(text: str, start: int) -> list[_Token]:
    found, line, position = [], 1 + text.count("\n", 0, start), start
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            kind = next((kind for kind in _UNCLOSED if text.startswith(kind, position)), "")
            raise ValueError(f"{line}: {_UNCLOSED[kind] if kind else f'unexpected {text[position]!r}'}")
        kind = match.lastgroup or ""
        if kind != "space":
            found.append(_Token(kind, match[kind], line))
        line += match[0].count("\n")
        position = match.end()
    return [*found, _Token("end", "", line)]


class _Parser:
    """A parser by recursive descent: a method for each kind of part."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens, self._next, self._depth = tokens, 0, 0

    def rules(self) -> Rules:
        rules: dict[str, Expression] = {}
        lines: dict[str, int] = {}
        public = []
        if self._takes("word", "grammar"):
            name = self._take("word", "a name after 'grammar'")
            self._take(";", f"';' after grammar {name}")
        while not self._takes("end"):
            token = self._peek()
            if token[:2] == ("word", "import"):
                raise ValueError(f"{token.line}: imports are not supported; copy the rules into this file")
            is_public = self._takes("word", "public")
            rule = self._take("rule", "a rule, <name> = ... ;")
            if rule.text in ("NULL", "VOID"):
                raise ValueError(f"{rule.line}: {rule} has a fixed meaning; choose another name")
            if rule.text in rules:
                raise ValueError(f"{rule.line}: rule {rule} is defined twice, first in line {lines[rule.text]}")
            self._take("=", f"'=' after rule {rule}")
            rules[rule.text], lines[rule.text] = self._alternatives(), rule.line
            if self._peek().kind != "mark" or self._peek().text != ";":
                raise ValueError(
                    f"{rule.line}: rule {rule} is not terminated: expected ';', found {self._peek()} in line "
                    f"{self._peek().line}"
                )
            self._next += 1
            public += [rule.text] * is_public
        check_references(rules)
        if not public:
            raise ValueError(f"{self._peek().line}: no rule is public; write 'public' before a rule to be spoken")
        return Rules(rules, tuple(public))

    def _alternatives(self) -> Expression:
        options: list[tuple[float, Expression]] = []
        weighted: list[bool] = []
        first = self._peek()
        while True:
            token = self._peek()
            weighted.append(token.kind == "weight")
            weight = self._weight() if token.kind == "weight" else 1.0
            options.append((weight, self._sequence()))
            if not self._takes("mark", "|"):
                break
        if any(weighted) and not all(weighted):
            raise ValueError(f"{first.line}: some alternatives have a weight and others have none; give one to each")
        largest = max(weight for weight, _ in options)
        if len(options) == 1 and largest:
            return options[0][1]
        return Choice(tuple((math.log(weight / largest), option) for weight, option in options if weight))

    def _weight(self) -> float:
        token = self._take("weight", "a weight")
        try:
            weight = float(token.text)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise ValueError(f"{token.line}: weight {token} is not a number of 0 or more")
        return weight

    def _sequence(self) -> Expression:
        parts: list[Expression] = []
        while (part := self._repeated()) is not None:
            last = parts[-1] if parts else None
            if isinstance(part, Words) and isinstance(last, Words):
                parts[-1] = Words(last.words + part.words, last.line)
            else:
                parts.append(part)
        if not parts:
            raise ValueError(
                f"{self._peek().line}: expected words, a rule or a group, found {self._peek()}; write <NULL> for "
                "nothing"
            )
        return parts[0] if len(parts) == 1 else Series(tuple(parts))

    def _repeated(self) -> Expression | None:
        part = self._part()
        if part is None:
            return None
        while True:
            if self._takes("tag"):
                continue
            if self._takes("mark", "*"):
                part = Repeat(part, may_skip=True, may_repeat=True)
            elif self._takes("mark", "+"):
                part = Repeat(part, may_skip=False, may_repeat=True)
            else:
                return part

    def _part(self) -> Expression | None:
        token = self._peek()
        if token.kind in ("word", "quoted"):
            self._next += 1
            text = re.sub(r"\\(.)", r"\1", token.text) if token.kind == "quoted" else token.text
            return Words(tuple(text.split()), token.line)
        if token.kind == "rule":
            self._next += 1
            special: dict[str, Expression] = {"NULL": Series(()), "VOID": Choice(())}
            return special.get(token.text, Reference(token.text, token.line))
        if token.kind == "mark" and token.text in "([":
            self._next += 1
            self._depth += 1
            if self._depth > MOST_NESTING:
                raise ValueError(
                    f"{token.line}: more than {MOST_NESTING} brackets within brackets; name a part as a rule"
                )
            part = self._alternatives()
            self._depth -= 1
            closing = ")" if token.text == "(" else "]"
            if not self._takes("mark", closing):
                raise ValueError(
                    f"{token.line}: '{token.text}' is not closed: expected '{closing}', found {self._peek()}"
                )
            return part if token.text == "(" else Repeat(part, may_skip=True, may_repeat=False)
        return None

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _takes(self, kind: str, text: str | None = None) -> bool:
        """Take the next token if it is this one; return whether it is."""
        token = self._peek()
        if token.kind != kind or (text is not None and token.text != text):
            return False
        self._next += kind != "end"
        return True

    def _take(self, kind: str, expected: str) -> _Token:
        """Take the next token; raise ValueError unless it has this kind or is this mark."""
        token = self._peek()
        if token.kind != kind and (token.kind != "mark" or token.text != kind):
            raise ValueError(f"{token.line}: expected {expected}, found {token}")
        self._next += 1
        return token
