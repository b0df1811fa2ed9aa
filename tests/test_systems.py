import json

import pytest

from anyglot.errors import AnyglotError, ConfigError
from anyglot.systems import show, systems


@pytest.fixture
def checkout(tmp_path):
    """Three recipes: one whose test exists, one whose test does not, one without a test."""
    recipes = tmp_path / "configs" / "systems"
    recipes.mkdir(parents=True)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_claims.py").write_text(
        "def helper(): pass\ndef test_usage(): pass\nclass TestB:\n    def test_bits(self): pass\n"
    )
    recipe = "levels: 4\nsystem:\n  source: a paper\n  claim: it works\n  test: tests/test_claims.py::"
    (recipes / "simvq.yaml").write_text(f"{recipe}test_usage[simvq]\n")
    (recipes / "bsq.yaml").write_text(f"{recipe}TestB::test_bits\n")
    (recipes / "fsq.yaml").write_text(f"{recipe}test_gone\n")
    (recipes / "lfq.yaml").write_text(f"{recipe}helper\n")
    (recipes / "pq.yaml").write_text(f"{recipe}test_later\n")
    (recipes / "opq.yaml").write_text(f"{recipe}test_usage\n".replace("test_claims", "test_absent"))
    return tmp_path


def test_the_survey_is_complete():
    rows = systems()
    assert len({row.id for row in rows}) == len(rows) == 288
    assert sum(row.kind == "system" for row in rows) == 244
    assert sum(row.kind == "technique" for row in rows) == 44
    assert all(row.name and row.section for row in rows)


def test_state_is_found_from_recipes_and_tests(checkout):
    found = {row.id: row for row in systems(checkout / "configs", checkout)}
    states = {name: found[name].state for name in ("simvq", "bsq", "fsq", "lfq", "pq", "opq", "vq-vae")}
    assert states == {
        "simvq": "tested",
        "bsq": "tested",
        "fsq": "recipe",
        "lfq": "recipe",
        "pq": "recipe",
        "opq": "recipe",
        "vq-vae": "missing",
    }
    assert (found["simvq"].recipe, found["simvq"].test) == ("systems/simvq", "tests/test_claims.py::test_usage[simvq]")
    assert (found["vq-vae"].recipe, found["vq-vae"].test) == ("", "")


def test_a_recipe_of_no_system_is_an_error(checkout):
    (checkout / "configs" / "systems" / "simqv.yaml").write_text("levels: 4\n")
    with pytest.raises(ConfigError, match="no system of the survey has the id 'simqv'"):
        systems(checkout / "configs", checkout)


def test_a_recipe_says_what_it_claims(checkout):
    (checkout / "configs" / "systems" / "ibq.yaml").write_text("system: {source: a paper, test: x}\n")
    with pytest.raises(ConfigError, match="ibq.yaml: system: required key 'claim' is not set"):
        systems(checkout / "configs", checkout)


def test_json_has_the_promised_keys(capsys):
    show(as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert {tuple(row) for row in rows} == {("id", "name", "section", "kind", "state", "recipe", "test")}


def test_the_table_counts_its_rows(capsys):
    show(as_json=False)
    assert "288 rows" in capsys.readouterr().out


def test_one_system_says_what_it_claims(capsys):
    show(as_json=False, only="fsq")
    printed = capsys.readouterr().out
    assert "arXiv:2309.15505" in printed
    assert "anyglot train systems/fsq" in printed
    show(as_json=True, only="fsq")
    assert json.loads(capsys.readouterr().out)["claim"].startswith("Codes never")
    with pytest.raises(AnyglotError, match="no system 'simqv'; did you mean 'simvq'"):
        show(as_json=False, only="simqv")


def test_every_shipped_recipe_names_a_test_that_exists():
    assert [row.id for row in systems() if row.state == "recipe"] == []
