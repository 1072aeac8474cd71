"""The mix language: what it means, what it refuses, and that printing it reads back."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerplug.errors import PresetError, StrengthError
from steerplug.preset.mix import MAX_INGREDIENTS, Ingredient, format_mix, parse_mix

MEANS = {
    "none": (),
    "  none ": (),
    "pirate": (Ingredient("pirate"),),
    "+ pirate": (Ingredient("pirate"),),
    "-pirate": (Ingredient("pirate", sign=-1),),
    "-0.5*pirate": (Ingredient("pirate", 0.5, -1),),
    "0.8*love-hate + 0.5*weddings - cheerful": (
        Ingredient("love-hate", 0.8),
        Ingredient("weddings", 0.5),
        Ingredient("cheerful", sign=-1),
    ),
    "a-b": (Ingredient("a-b"),),
    "a - b": (Ingredient("a"), Ingredient("b", sign=-1)),
    "a -b": (Ingredient("a"), Ingredient("b", sign=-1)),
    "a+b": (Ingredient("a"), Ingredient("b")),
    "a + -0.5*b": (Ingredient("a"), Ingredient("b", 0.5, -1)),
    "a - -0.5*b": (Ingredient("a"), Ingredient("b", 0.5)),
    "1e-3*x": (Ingredient("x", 0.001),),
    "1E+2 * x": (Ingredient("x", 100.0),),
    ".5*x + 2.*y": (Ingredient("x", 0.5), Ingredient("y", 2.0)),
    "0*x": (Ingredient("x", 0.0),),
    "none-such": (Ingredient("none-such"),),
    "infant + nan-bread": (Ingredient("infant"), Ingredient("nan-bread")),
    "./my-presets/v1.2/a.yaml": (Ingredient("./my-presets/v1.2/a.yaml"),),
    "2*/tmp/x-2.gguf - ~/y.yaml": (
        Ingredient("/tmp/x-2.gguf", 2.0),
        Ingredient("~/y.yaml", sign=-1),
    ),
    r"C:\presets\a.gguf": (Ingredient(r"C:\presets\a.gguf"),),
    '0.5*"my presets/a + b.yaml"': (Ingredient("my presets/a + b.yaml", 0.5),),
    "'say \"hi\".yaml'": (Ingredient('say "hi".yaml'),),
    "'it''s.yaml'": (Ingredient("it's.yaml"),),
}


@pytest.mark.parametrize("text", MEANS)
def test_a_mix_means_its_ingredients_in_order(text: str) -> None:
    assert parse_mix(text) == MEANS[text]


REFUSED = {
    "": r"the mix is empty; name a preset, or write `none`",
    "  ": r"the mix is empty",
    "-": r"the mix `-` cannot be read at its end: a preset's name or path belongs here",
    "a +": r"the mix `a \+` cannot be read at its end",
    "a + + b": r"cannot be read at `\+ b`: a preset's name",
    "- - a": r"cannot be read at `- a`",
    "a b": r"at `b`: `\+` or `-` belongs here; quote a path",
    "a- b": r"at `b`: `\+` or `-` belongs here",
    "my presets/a.yaml": r"at `presets/a.yaml`",
    "0.8 pirate": r"at `0.8 pirate`: the strength 0.8 has no preset; write `0.8\*name`",
    "0,8*pirate": r"at `0,8\*pirate`: a number has a point, as in `0.5\*pirate`",
    "0.8": r"write `0.8\*name`",
    "0.8*": r"at its end",
    "*x": r"at `\*x`: a preset's name",
    "pirate*0.5": r"at `\*0.5`: the number goes first, as in `0.8\*pirate`",
    "2*3*x": r"the strength 3 has no preset",
    "none + a": r"at `none \+ a`: `none` stands alone",
    "0*none": r"at `none`: `none` stands alone",
    "2*(a + b)": r"at `\(a \+ b\)`",
    "a, b": r"at `, b`",
    "a \u2212 b": "at `\u2212 b`",
    '"a': r"at `\"a`",
    '""': r"an empty or unprintable name",
    "' '": r"an empty or unprintable name",
    '"a\nb"': r"an empty or unprintable name",
    "0x10*a": r"at `\*a`",
    "\u0663*a": r"the number goes first",
}


@pytest.mark.parametrize("text", REFUSED)
def test_garbage_is_refused_and_the_place_pointed_at(text: str) -> None:
    with pytest.raises(PresetError, match=REFUSED[text]):
        parse_mix(text)


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "NaN", "Infinity", "1e999"])
def test_a_strength_that_is_not_finite_is_refused(number: str) -> None:
    with pytest.raises(StrengthError, match=rf"`{number}` in the mix `a \+ {number}\*b` is not"):
        parse_mix(f"a + {number}*b")


@pytest.mark.parametrize("strength", [-0.5, math.nan, math.inf])
def test_an_ingredient_keeps_its_sign_apart(strength: float) -> None:
    with pytest.raises(StrengthError, match="give a finite number that is not negative"):
        Ingredient("a", strength)


def test_a_mix_is_limited_in_length_and_number() -> None:
    assert len(parse_mix(" + ".join("a" * MAX_INGREDIENTS))) == MAX_INGREDIENTS
    with pytest.raises(PresetError, match="at most 16 ingredients"):
        parse_mix(" + ".join("a" * (MAX_INGREDIENTS + 1)))
    assert parse_mix("a" * 1000)
    with pytest.raises(PresetError, match="has 1001 characters; keep it under 1001"):
        parse_mix("a" * 1001)


def test_the_signed_strength_falls_back_on_the_presets_default() -> None:
    whole, minus, half = parse_mix("a - b - 0.5*c")
    assert [i.strength_at(1.5) for i in (whole, minus, half)] == [1.5, -1.5, -0.5]


def test_a_mix_is_printed_as_people_write_it() -> None:
    assert format_mix(parse_mix(" -0.5 * pirate+concise  - 2*'a b.yaml'")) == (
        '-0.5*pirate + concise - 2.0*"a b.yaml"'
    )
    assert format_mix(()) == "none"


references = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=30)
words = st.text("ab-._/0189e+*\"' none\\~", min_size=1, max_size=12).filter(str.strip)
ingredients = st.builds(
    Ingredient,
    reference=references | words | st.sampled_from(["none", "nan", "1e3", "-a", 'it\'s "x"']),
    strength=st.none() | st.floats(0, 1e300),
    sign=st.sampled_from([1, -1]),
)


@given(st.lists(ingredients, max_size=6))
def test_printing_a_mix_and_reading_it_back_changes_nothing(mix: list[Ingredient]) -> None:
    assert parse_mix(format_mix(tuple(mix))) == tuple(mix)


@given(st.text(max_size=40) | st.text("ab01.e-+*\"' n", max_size=40))
def test_any_text_is_a_mix_or_refused(text: str) -> None:
    try:
        mix = parse_mix(text)
    except (PresetError, StrengthError):
        return
    assert parse_mix(format_mix(mix)) == mix
