from benchmarks.harness.results import share, source_digest, table


def test_table_is_markdown() -> None:
    assert table(["", "found"], [["mse", 3]]) == "|  | found |\n|---|---:|\n| mse | 3 |"


def test_share_says_both() -> None:
    assert share(3, 4) == "3/4 (75.0 %)"
    assert share(0, 0) == "-"


def test_the_digest_names_one_state_of_the_source() -> None:
    assert source_digest() == source_digest()
