"""What a reply answers: formats that models use, and replies that name two answers."""

import pytest

from workbench.evaluation.readings import last_number, last_word, letter, marked_number, one_of

MAYBE = one_of("yes", "no", "maybe")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("B", "B"),
        ("(B)", "B"),
        ("B.", "B"),
        ("B. It rains in spring", "B"),
        ("**C**", "C"),
        ("\n D) none of these", "D"),
        ("The answer is B", "B"),
        ("The answer is (B).", "B"),
        ("Answer: b", "B"),
        ("I think that the answer is **D**, since A is wrong.", "D"),
        ("The right option C is plain.", "C"),
        ("A. rain\nB. snow", None),  # repeats the options
        ("The answer is A. No, the answer is B.", None),
        ("A man went to the USA.", None),
        ("It rains.", None),
        ("", None),
        ("The answer is B. A and C are wrong because they ignore the dose.", "B"),
        ("Answer: D\nExplanation: options A, B and C are incorrect.", "D"),
        ("The answer is (C). Options A, B and D are incorrect.", "C"),
        ("The answer is B, since A and C contradict it.", "B"),
        ("The answer is B and C.", None),
        ("None of A, B or C", None),
        ("The answer is Alpha", None),
        ("I'd say that it rains", None),
        ("b", "B"),
        ("(c)", "C"),
        ("The answer is B or C.", None),
        ("The answer is B, or possibly (C)", "B"),
        ("The answer is A, B", None),
        ("The answer is (A) and (D).", None),
        ("B or C", None),
        ("The answer is a matter of taste.", None),
        ("The answer is A matter of taste.", None),
        ("The answer is I think unknown", None),
        ("The answer is (C) hepatitis B", "C"),
        ("My choice is D", "D"),
    ],
)
def test_letters(text: str, said: str | None) -> None:
    assert letter(text, True) == said


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("She has 9 * 2 = 18.\n#### 18", "18", "18"),
        ("The answer is $1,800.", "1800", "1800"),
        ("The answer is 18.0 dollars", "18", "18"),
        ("the answer: **-3.50**", "-3.5", "-3.5"),
        ("9 and 9 make 18", None, "18"),
        ("#### 5\nNo, wait.\n#### 7", "7", "7"),
        ("The answer is 18. I used 2 steps.", "18", "2"),
        ("It takes 10,5 and 1,000,000", None, "1000000"),
        ("#### −4", "-4", "-4"),
        ("no number", None, None),
        ("The answer is 5 + 13 = 18.", "18", "18"),
        ("The answer is 18 of the 20 eggs.", None, "20"),
        ("She has to answer 12 calls", None, "12"),
        ("The answer is clear. The answer is 3.", "3", "3"),
        ("#### 18 eggs", "18", "18"),
        ("from 10-12", None, "12"),
        ("It is 16-3=13", None, "13"),
        ("#### .5", "0.5", "0.5"),
        ("#### -0", "0", "0"),
        ("#### none", None, None),
        ("", None, None),
    ],
)
def test_numbers(text: str, strict: str | None, lenient: str | None) -> None:
    assert marked_number(text, True) == strict
    assert last_number(text, True) == lenient


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("yes", "yes"),
        ("Yes, though some say no.", "yes"),
        ("The answer is maybe: yes for some, no for others.", "maybe"),
        ("Studies say no such thing; yes", "yes"),
        ("I would say no.", "no"),
        ("Yes or no", None),
        ("yes, no or maybe", None),
        ("The answer is yes or no.", None),
        ("There is no doubt.", None),
        ("There is no doubt: yes", "yes"),
        ("No, there is none.", "no"),
        ("It is not maybe", None),
        ("Nothing is known", None),  # "no" is not in "nothing"
        ("", None),
    ],
)
def test_one_of_several_words(text: str, said: str | None) -> None:
    assert MAYBE(text, True) == said


def test_the_last_word_of_a_reply_that_was_cut_off_is_no_answer() -> None:
    assert last_word("The answer is 7.", True) == "7"
    assert last_word("The answer is 7.", False) is None
    assert last_word("...", True) is None


@pytest.mark.parametrize(
    ("text", "strict"), [("#### 1", None), ("#### 18\nso", "18"), ("The answer is 1", None)]
)
def test_a_number_that_was_cut_off_is_no_strict_answer(text: str, strict: str | None) -> None:
    assert marked_number(text, False) == strict


def test_what_is_denied_is_no_mood() -> None:
    mood = one_of("negative", "neutral", "positive")
    assert mood("The sentiment is not positive.", True) is None
    assert mood("The sentiment isn't negative but neutral.", True) == "neutral"
    assert mood("The sentiment is positive.", True) == "positive"
