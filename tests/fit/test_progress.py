"""How work says where it is."""

from steerplug.fit.progress import in_turn, steps


def test_what_is_gone_through_in_turn_is_counted_together() -> None:
    told = list[tuple[str, int, int]]()

    def report(what: str, done: int, total: int) -> None:
        told.append((what, done, total))

    for name, items, part in in_turn({"bare": "ab", "steered": "cd"}, report):
        assert "".join(steps(items, name, part)) == items
    assert told == [
        ("bare", 0, 4), ("bare", 1, 4), ("bare", 2, 4),
        ("steered", 2, 4), ("steered", 3, 4), ("steered", 4, 4),
    ]  # fmt: skip
