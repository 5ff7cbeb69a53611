"""The automaton of a grammar against plain enumeration of its sentences, with every kind of vocabulary."""

import itertools
import math
import re
import time
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wenet_fusion_runtime import Grammar, Vocabulary
from wenet_fusion_runtime.results.vocabulary import RESERVED
from wenet_fusion_runtime.search.grammar import grammar_automaton
from wenet_fusion_runtime.search.grammar.expressions import Choice, Expression, Reference, Repeat, Series, Words
from wenet_fusion_runtime.search.grammar.grammar_scorer import GrammarScorer
from wenet_fusion_runtime.search.spelling import Spelling

# In all of them the words of the grammars are "a", "ab" and "b"; the tokens are whole words, pieces and letters.
VOCABULARIES = {
    "words": Vocabulary([*RESERVED, "a", "ab", "b"], "words"),
    "pieces": Vocabulary([*RESERVED, "\u2581a", "b", "\u2581", "a\u2581b"], "pieces"),
    "characters": Vocabulary([*RESERVED, "a", "b"], "pieces"),
}
TOKENS = 3  # tokens of a text

PARTS = st.recursive(
    st.sampled_from(["a", "ab", "b", "a b", "<NULL>", "<VOID>", "<other>"]),
    lambda part: st.one_of(
        st.lists(part, min_size=2, max_size=2).map(lambda parts: f"({parts[0]} | {parts[1]})"),
        st.lists(part, min_size=2, max_size=2).map(lambda parts: f"(/3/ {parts[0]} | /1/ {parts[1]})"),
        st.lists(part, min_size=2, max_size=2).map(" ".join),
        part.map(lambda each: f"[{each}]"),
        part.map(lambda each: f"({each})*"),
        part.map(lambda each: f"({each})+"),
    ),
    max_leaves=4,
)


def exploded(part: Expression, kind: str) -> Expression:
    """Return a part whose words are the symbols of its text: letters, and _ after each word if words have an end."""
    if isinstance(part, Words):
        end = "" if kind == "characters" else "_"
        return Words(tuple(letter for word in part.words for letter in word + end), part.line)
    if isinstance(part, Series):
        return Series(tuple(exploded(each, kind) for each in part.parts))
    if isinstance(part, Choice):
        return Choice(tuple((weight, exploded(each, kind)) for weight, each in part.options))
    return part._replace(part=exploded(part.part, kind)) if isinstance(part, Repeat) else part


class Oracle:
    """The sentences of a grammar by Antimirov's partial derivatives: what may follow each symbol, as expressions."""

    def __init__(self, grammar: Grammar, kind: str) -> None:
        self.rules = {name: exploded(rule, kind) for name, rule in grammar.rules.rules.items()}

    def empty(self, part: Expression) -> float:
        """Return the weight with which a part may be empty, 0 if it may not."""
        if isinstance(part, Words):
            return float(not part.words)
        if isinstance(part, Reference):
            return self.empty(self.rules[part.rule])
        if isinstance(part, Series):
            return math.prod(map(self.empty, part.parts))
        if isinstance(part, Choice):
            return max((math.exp(weight) * self.empty(each) for weight, each in part.options), default=0.0)
        return 1.0 if part.may_skip else self.empty(part.part)

    def is_alive(self, part: Expression) -> bool:
        """Return whether a part has any sentence."""
        if isinstance(part, Reference):
            return self.is_alive(self.rules[part.rule])
        if isinstance(part, Series):
            return all(map(self.is_alive, part.parts))
        if isinstance(part, Choice):
            return any(self.is_alive(each) for _, each in part.options)
        return part.may_skip or self.is_alive(part.part) if isinstance(part, Repeat) else True

    def after(self, part: Expression, symbol: str) -> Iterator[tuple[float, Expression]]:
        """Yield what may follow a symbol at the beginning of a part, with weights."""
        if isinstance(part, Words) and part.words[:1] == (symbol,):
            yield 1.0, part._replace(words=part.words[1:])
        elif isinstance(part, Reference):
            yield from self.after(self.rules[part.rule], symbol)
        elif isinstance(part, Series) and part.parts:
            first, rest = part.parts[0], part.parts[1:]
            yield from ((weight, Series((each, *rest))) for weight, each in self.after(first, symbol))
            if skip := self.empty(first):
                yield from ((skip * weight, each) for weight, each in self.after(Series(rest), symbol))
        elif isinstance(part, Choice):
            for weight, option in part.options:
                yield from ((math.exp(weight) * other, each) for other, each in self.after(option, symbol))
        elif isinstance(part, Repeat):
            again = (Repeat(part.part, True, True),) * part.may_repeat
            yield from ((weight, Series((each, *again))) for weight, each in self.after(part.part, symbol))

    def follow(self, text: str) -> dict[Expression, float]:
        """Return what may follow a text, with the largest weights."""
        found: dict[Expression, float] = {self.rules["s"]: 1.0}
        for symbol in text:
            after: dict[Expression, float] = {}
            for part, weight in found.items():
                for other, each in self.after(part, symbol):
                    if self.is_alive(each):
                        after[each] = max(after.get(each, 0.0), weight * other)
            found = after
        return found

    def final(self, text: str) -> float:
        """Return the weight of a text that ends here; 0: it is no sentence."""
        return max((weight * self.empty(part) for part, weight in self.follow(text).items()), default=0.0)


def symbols_of(tokens: tuple[str, ...], kind: str) -> str:
    """Return the symbols of a text: letters, and one _ after each word."""
    if kind == "words":
        return "".join(f"{token}_" for token in tokens)
    return re.sub("_+", "_", "_" + "".join(tokens).replace("\u2581", "_"))[1:] if kind == "pieces" else "".join(tokens)


def agrees_with_enumeration(body: str, kind: str, is_bounded: bool = False) -> bool:
    """Compare the scores of all texts of up to TOKENS tokens with the grammar's sentences."""
    grammar = Grammar(f"#JSGF V1.0; public <s> = {body}; <other> = b | a a;", is_bounded=is_bounded)
    vocabulary, oracle = VOCABULARIES[kind], Oracle(grammar, kind)
    if not any(oracle.follow(letter) for letter in "ab"):
        with pytest.raises(ValueError, match="grammar: the grammar has no sentence with words; add words"):
            GrammarScorer(Spelling(vocabulary), grammar)
        return True
    scorer = GrammarScorer(Spelling(vocabulary), grammar)
    texts = range(len(RESERVED), len(vocabulary))
    for ids in itertools.chain.from_iterable(itertools.product(texts, repeat=count) for count in range(TOKENS + 1)):
        text, score, state = symbols_of(tuple(vocabulary.tokens[i] for i in ids), kind), 0.0, scorer.start()
        for token in ids:
            before = score
            score, state = scorer.advance(state, token)
            if score > before:
                return False  # a prefix never gains
            if score == -math.inf:
                break
        if (score > -math.inf) != (not text or bool(oracle.follow(text))):
            return False
        if score > -math.inf:
            ended = text + "_" * (kind == "pieces" and text[-1:] != "_")
            weight, final = oracle.final(ended) if text else 1.0, scorer.finish(state)
            if not (math.isclose(math.exp(final), weight, abs_tol=1e-9) and final <= score + 1e-9):
                return False
    return True


@pytest.mark.parametrize("kind", VOCABULARIES)
@settings(max_examples=40, deadline=None)
@given(body=PARTS, is_bounded=st.booleans())
def test_texts_are_within_the_grammar_exactly_if_they_begin_a_sentence(kind: str, body: str, is_bounded: bool) -> None:
    assert agrees_with_enumeration(body, kind, is_bounded)


@pytest.mark.parametrize("kind", VOCABULARIES)
@pytest.mark.parametrize(
    "body",
    [
        "a <VOID> | a b",
        "(/3/ a | /1/ b)+ [ab]",
        "(a (/1/ b <VOID> | /3/ <NULL>))*",
        "(a b)* a",
        "(/3/ <VOID> | /1/ a) b",
    ],
)
def test_texts_of_chosen_grammars(body: str, kind: str) -> None:
    assert agrees_with_enumeration(body, kind)


@pytest.mark.parametrize("kind", VOCABULARIES)
def test_results_do_not_depend_on_forgotten_states(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_automaton, "MOST_KEPT", 1)
    assert agrees_with_enumeration("(/3/ a (b | ab)+ | /1/ [ab] a)* b", kind)


def test_tokens_without_text_are_outside_of_every_grammar() -> None:
    scorer = GrammarScorer(Spelling(VOCABULARIES["words"]), Grammar("a"))
    assert [scorer.advance(scorer.start(), token)[0] for token in range(6)] == [-math.inf] * 3 + [0.0] + [-math.inf] * 2
    assert (scorer.most_gained < -1e6).tolist() == [True] * 3 + [False] + [True] * 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("a\nc", "x:2: the model cannot spell 'c': no token is 'c'"),
        ("a\nA", "x:2: the model cannot spell 'A': no token is 'A', but there are tokens for 'a'"),
        ("c\nd\nc", "x:1: the model cannot spell 'c': no token is 'c' (1 other words cannot be spelled either)"),
        (
            "c" * 300,
            "x:1: the model cannot spell '" + "c" * 100 + "...': it has 300 characters, at most 200 are allowed",
        ),
        (
            "#JSGF V1.0; public <s> = a <VOID>;",
            "x: the grammar has no sentence with words; add words to its public rule",
        ),
    ],
)
def test_words_that_the_model_cannot_spell(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        GrammarScorer(Spelling(VOCABULARIES["words"]), Grammar(text, "x"))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def doubled(times: int, first: str = "a") -> str:
    rules = "".join(f"<r{n}> = <r{n - 1}> <r{n - 1}>;" for n in range(1, times + 1))
    return f"#JSGF V1.0; public <s> = <r{times}>; <r0> = {first}; {rules}"


@pytest.mark.parametrize("first", ["a", "<NULL>", "[a]", "a | <NULL>"])
def test_a_grammar_that_grows_without_bound_is_refused_soon(first: str) -> None:
    start = time.process_time()
    with pytest.raises(
        ValueError, match="x: the grammar is too large: with every rule written out it has more than 5000"
    ):
        GrammarScorer(Spelling(VOCABULARIES["words"]), Grammar(doubled(40, first), "x", most_states=5000))
    assert time.process_time() - start < 5


def test_a_grammar_of_a_stranger_may_not_be_ambiguous_without_bound() -> None:
    text = f"#JSGF V1.0; public <s> = (a | b)* a {'(a | b) ' * 40};"
    start = time.process_time()
    with pytest.raises(ValueError, match="x: the grammar is too large or too ambiguous; leave out words, or altern"):
        GrammarScorer(Spelling(VOCABULARIES["words"]), Grammar(text, "x", most_states=5000, is_bounded=True))
    assert time.process_time() - start < 5
    GrammarScorer(Spelling(VOCABULARIES["words"]), Grammar(text, "x"))  # the owner of the computer may use it


def test_a_chain_of_rules_is_refused_before_the_stack_overflows() -> None:
    chain = "".join(f"<r{n}> = [<r{n + 1}>];" for n in range(2000))
    with pytest.raises(ValueError, match="x: rules and groups are nested more than 150 deep; simplify them"):
        GrammarScorer(
            Spelling(VOCABULARIES["words"]), Grammar(f"#JSGF V1.0; public <s> = <r0>; <r2000> = a;{chain}", "x")
        )


def test_the_enumeration_catches_a_forgotten_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GrammarScorer, "finish", lambda self, state: state[0])
    assert not agrees_with_enumeration("a b", "words")
