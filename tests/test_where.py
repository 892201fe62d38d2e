"""The --where language: what it means, and how its errors point."""

import contextlib
import datetime

import pytest
from factories import WHERE_FIELDS
from hypothesis import given
from hypothesis import strategies as st

from cxrsearch.clinical.expression import And, Compare, Contains, Equals, Missing, Not, Or
from cxrsearch.clinical.where import parse
from cxrsearch.errors import WhereError


def test_the_expression_of_the_documentation() -> None:
    text = """site = "Melbourne, Australia" and age >= 60 and finding in ("COVID-19", "ARDS") and not icu = true
      and study_date > 2020-03-01 and outcome is missing and notes contains "intubated" """
    assert parse(text, WHERE_FIELDS) == And(
        (
            Equals("site", ("Melbourne, Australia",)),
            Compare("age", ">=", 60),
            Equals("finding", ("COVID-19", "ARDS")),
            Not(Equals("icu", (True,))),
            Compare("study_date", ">", "2020-03-01"),
            Missing("outcome"),
            Contains("notes", "intubated"),
        )
    )


A, B, C = Equals("age", (1,)), Equals("age", (2,)), Equals("age", (3,))


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("age = 1 or age = 2 and age = 3", Or((A, And((B, C))))),
        ("(age = 1 or age = 2) and age = 3", And((Or((A, B)), C))),
        ("not age = 1 and age = 2", And((Not(A), B))),
        ("not (age = 1 and age = 2)", Not(And((A, B)))),
        ("NOT age = 1 Or age=2", Or((Not(A), B))),
        ("not not age = 1", Not(Not(A))),
        ("age != 1", And((Not(Missing("age")), Not(A)))),
        ("age not in (1, 2)", And((Not(Missing("age")), Not(Equals("age", (1, 2)))))),
        ("age is not missing", Not(Missing("age"))),
        ("temperature < -1.5e1", Compare("temperature", "<", -15.0)),
        ("site = 'O''Brien \"ward\"'", Equals("site", ('O\'Brien "ward"',))),
        ('site = "say ""hi"""', Equals("site", ('say "hi"',))),
        ("study_date = '2020-02-29'", Equals("study_date", ("2020-02-29",))),
        ('site contains "Italy"', Contains("site", "Italy")),
        ("notes contains 'e\u0301'", Contains("notes", "\u00e9")),  # as it is indexed: NFC
    ],
)
def test_meaning(text: str, tree: object) -> None:
    assert parse(text, WHERE_FIELDS) == tree


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('stie = "x"', "stie", "no field 'stie'. Did you mean 'site'?"),
        ('age = 1 and Finding = "x"', "Finding", "Did you mean 'finding'?"),
        ("zzz = 1", "zzz", "Fields: age,"),
        ("site = Melbourne", "Melbourne", 'in quotes, as in site = "..."'),
        ("site > 'a'", "'a'", "has no order"),
        ("age = 'old'", "'old'", "age is a number"),
        ("age = 1e999", "1e999", "age is a number"),
        ("icu = yes", "yes", "true or false"),
        ("icu = 'true'", "'true'", "without quotes"),
        ("study_date > 2020-13-01", "2020-13-01", "write it as 2020-03-31"),
        ("study_date > 2020", "2020", "write it as 2020-03-31"),
        ("notes = 'x'", "'x'", "use notes contains"),
        ("notes contains '...'", "'...'", "no word"),
        ("notes contains word", "word", "text in quotes"),
        ("age contains '1'", "'1'", "contains is for text"),
        ("age =", "", "unexpected end; expected a value"),
        ("age = 1 age = 2", "age = 2", "unexpected 'age'; expected"),
        ("(age = 1", "", "unexpected end"),
        ("age == 1", "= 1", "unexpected '='; write = once"),
        ("age = 1 & icu = true", "& icu", "unexpected '&'; write and, or"),
        ("age between 40 and 60", "between", "write age >= 40 and age <= 60"),
        ("notes LIKE 'x%'", "LIKE", 'write notes contains "word"'),
        ("age is null", "null", "write is missing"),
        ("age = null", "null", "write age is missing"),
        ("site != None", "None", "write site is missing"),
        ("age <> 1", "> 1", "write != or not"),
        ("site = \u201cDaegu\u201d", "\u201cDaegu", "write straight quotes"),
        ("study_date > 01.02.2020", ".2020", "write a date as 2020-02-01"),
        ("study_date > 01/02/2020", "/02/2020", "write a date as 2020-02-01"),
        ("age > 38,5", ",5", "write a decimal point: 38.5"),
        ("site = 'open", "'open", "never closed"),
        ("", "", "unexpected end; expected"),
        ("and", "", "unexpected end; expected"),
    ],
)
def test_every_error_points_at_its_place(text: str, place: str, message: str) -> None:
    with pytest.raises(WhereError) as caught:
        parse(text, WHERE_FIELDS)
    assert message in str(caught.value)
    expected = text.rindex(place) if place else len(text)
    assert caught.value.position == expected
    _, shown, caret = str(caught.value).split("\n")
    assert caret.index("^") == shown.index(text) + expected if text else caret.strip() == "^"


def test_a_long_expression_is_shown_around_its_error() -> None:
    text = " or ".join(f"age = {n}" for n in range(300)) + " or age = x"
    with pytest.raises(WhereError) as caught:
        parse(text, WHERE_FIELDS)
    _, shown, caret = str(caught.value).split("\n")
    assert len(shown) < 110
    assert shown[caret.index("^")] == "x"


def test_nesting_and_length_have_limits() -> None:
    assert parse("(" * 200 + "age = 1" + ")" * 200, WHERE_FIELDS) == A
    for deep in ("not " * 1000 + "age = 1", "(not " * 500 + "age = 1" + ")" * 500):
        with pytest.raises(WhereError, match="nested more than 50 deep"):
            parse(deep, WHERE_FIELDS)
    with pytest.raises(WhereError, match="longer than"):
        parse("age = 1 or " * 2000 + "age = 1", WHERE_FIELDS)
    assert isinstance(parse(" and ".join(["age = 1"] * 500), WHERE_FIELDS), And)


class FakeVocabulary:
    def count(self, expression: object = None) -> int:
        return int(expression == Equals("finding", ("COVID-19",)))

    def values(self, field: str) -> dict[str, int]:
        return {"COVID-19": 3, "ARDS": 1}


def test_a_value_that_does_not_occur_is_an_error_with_the_nearest() -> None:
    assert parse("finding = 'COVID-19'", WHERE_FIELDS, FakeVocabulary())
    with pytest.raises(WhereError, match=r"no image has finding = 'covid19'. Did you mean 'COVID-19'\?"):
        parse("finding != 'covid19'", WHERE_FIELDS, FakeVocabulary())


TOKENS = """age site icu notes nope and or not in is missing contains ( ) , = != <= > 1 -2.5 2020-01-01 'a' "b true é --
    [/bold]"""
WORDS = st.sampled_from([*TOKENS.split(), "\x00", "\n"])


@given(st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=15).map(" ".join)))
def test_any_text_parses_or_is_a_where_error(text: str) -> None:
    with contextlib.suppress(WhereError):
        assert parse(text, WHERE_FIELDS) is not None


@given(st.dates(min_value=datetime.date(1900, 1, 1)))
def test_any_date_is_a_date(day: datetime.date) -> None:
    assert parse(f"study_date = {day.isoformat()}", WHERE_FIELDS) == Equals("study_date", (day.isoformat(),))
