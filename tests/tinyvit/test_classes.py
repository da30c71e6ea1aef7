"""When two names mean one class: one comparison, wherever names meet."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from tinyvit.classes import class_order, load_class_list, match_classes, read_class_list, shared_classes
from tinyvit.errors import UserError


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # What a folder cannot be called, and what is written for a space.
        ("T-shirt/top", "T-shirt_top"),
        ("Ankle boot", "Ankle_boot"),
        ("Ankle boot", "ankle-boot"),
        ("ice cream", "Ice  Cream"),
        ("jack-o'-lantern", "Jack-o'-Lantern"),
        # As macOS writes folders.
        ("café", unicodedata.normalize("NFD", "Café")),
        ("n01440764 tench, Tinca tinca", "n01440764"),
        ("n02085620-Chihuahua", "n02085620"),
        ("n02085620_Chihuahua", "n02085620 Chihuahua"),
    ],
)
def test_names_of_one_class(one: str, other: str) -> None:
    assert match_classes(["x", one], [other, "x"]) == [1, 0]
    assert match_classes([other], [one]) == [0]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("+", "-"), ("C++", "C#"), ("C", "C++"), ("-1", "1"), ("+1", "-1"), ("1.5", "15"), ("a*", "a"), ("<", ">"),
        ("n01440764", "n01443537"), ("n014407645", "n01440764"), ("m²", "m2"), ("cat", "cats"), ("_", "-"),
    ],
)  # fmt: skip
def test_names_of_two_classes(one: str, other: str) -> None:
    assert match_classes([one], [other]) == [-1]
    # Also where both are in both lists, in another order.
    assert match_classes([one, other], [other, one]) == [1, 0]


def test_names_to_the_letter_come_first() -> None:
    assert match_classes(["turkey", "Turkey", "TURKEY"], ["Turkey", "turkey"]) == [1, 0, -1]
    assert match_classes(["a b", "a_b", "c"], ["a_b", "C", "a b"]) == [2, 0, 1]


def test_of_several_classes_of_one_name_the_kth_is_the_kth() -> None:
    names = ["crane", "cat", "crane", "dog"]
    assert match_classes(names, names) == [0, 1, 2, 3]
    assert match_classes(["dog", "crane", "cat", "crane"], names) == [3, 0, 1, 2]
    assert match_classes(["dog", "Crane", "Crane", "cat"], names) == [3, 0, 2, 1]
    # Nobody asks for them.
    assert match_classes(["cat"], names) == [1]


@pytest.mark.parametrize(
    ("names", "among"),
    [
        (["crane", "cat"], ["crane", "cat", "crane"]),
        (["crane", "crane"], ["crane"]),
        (["Crane"], ["crane", "crane"]),
        (["a-b"], ["a b", "a_b"]),
        (["a-b", "a/b"], ["a b", "a_b"]),
    ],
)
def test_what_cannot_be_told_is_refused(names: list[str], among: list[str]) -> None:
    with pytest.raises(UserError, match="which is which cannot be told") as fault:
        match_classes(names, among, ("the data", "the model"))
    assert repr(names[0]) in str(fault.value)


def test_shared_classes_need_names_on_both_sides() -> None:
    assert shared_classes(["a", "b"], ["B", "c"])
    assert not shared_classes(["a"], ["b"])
    assert not shared_classes(None, ["a"])


def test_folders_called_by_numbers_are_in_the_order_of_their_values() -> None:
    assert class_order(["10", "2", "1", "0", "2"]) == ["0", "1", "2", "10"]
    assert class_order(["10", "2", "b"]) == ["10", "2", "b"]


def test_a_class_list_is_read_line_by_line(tmp_path: Path) -> None:
    # A byte order mark and lines of Windows; what Unicode also calls the end of a line is none.
    names = tmp_path / "classes.txt"
    names.write_bytes("\ufeffcat\r\nsea\u2028lion\r\nform\x0cfeed\r\n\r\n".encode())
    assert load_class_list(names) == ["cat", "sea\u2028lion", "form\x0cfeed"]
    for content, told in (
        (b"a\n\nb\n", "line 2 is empty"),
        (b"", "line 1 is empty"),
        ("é".encode("latin-1"), "is not UTF-8"),
        (b"a\rb\n", "has a carriage return in it"),
    ):
        with pytest.raises(UserError, match=told):
            read_class_list(content, "classes.txt")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        load_class_list(tmp_path / "none")
