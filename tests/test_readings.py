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
        ("None of A, B or C", None),
        ("The answer is Alpha", None),
        ("I'd say that it rains", None),
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
        ("Studies say no such thing; yes", None),
        ("I would say no.", "no"),
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
