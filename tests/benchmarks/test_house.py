"""The counts of the house, on modules whose counts are known."""

from house import count, find_circles, find_same_names, list_imports

TEXTS = {
    "a": "from b import thing\n",
    "b": "def thing():\n    from c.d import other\n",
    "c": "",
    "c.d": "import a\nfrom typing import Any\nclass One: ...\nx = {'past_key_values': Any}\n",
    "e": (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from f import One\n"
        "class TritonPythonModel: ...\n"
    ),
    "f": "import e\nfrom c import d\nclass One: ...\nclass TritonPythonModel: ...\n",
}


def test_a_circle_is_found_through_functions_and_not_through_types() -> None:
    assert list_imports(TEXTS)["f"] == {"e", "c.d"}
    assert find_circles(list_imports(TEXTS)) == [["a", "b", "c.d"]]
    assert find_circles({"a": {"b"}, "b": {"a"}, "c": {"a"}, "d": {"e"}, "e": {"d"}}) == [
        ["a", "b"],
        ["d", "e"],
    ]


def test_a_class_name_is_the_same_in_two_modules() -> None:
    assert find_same_names(TEXTS) == {"One": ["c.d", "f"]}


def test_the_counts_are_compared_with_their_bars() -> None:
    bars = {bar["name"]: bar for bar in count(TEXTS, minutes=8.5)["bars"]}
    assert {name: bar["value"] for name, bar in bars.items()} == {
        "modules": 6,
        "product lines": 15,
        "import circles": 1,
        "class names used twice": 1,
        "files that spell past_key_values": 1,
        "files that create an InferenceSession": 0,
        "uses of Any": 2,
        "make test, minutes": 8.5,
    }
    assert not bars["import circles"]["met"]
    assert not bars["make test, minutes"]["met"]
    assert bars["modules"]["met"]
