import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")

from experiments import hmm


def test_two_states_tell_some_letters_apart(tfds_data_dir, tmp_path, capsys):
    config = hmm.Config(
        symbols=10000, seeds=2, restarts=1, iterations=12, data_dir=tfds_data_dir, output=tmp_path
    )
    results = hmm.run(config)
    assert results.vowel.shape == (2, 27) and results.right.shape == results.bits.shape == (2,)
    assert ((results.vowel >= 0) & (results.vowel <= 1 + 1e-5)).all()
    assert 3 < results.bits.min() < results.alone + 0.3 < 5
    assert [path.name for path in results.pictures] == ["letters.png", "path.png"]
    assert all(path.exists() for path in results.pictures)
    assert "P(vowel state | letter)" in capsys.readouterr().out


def test_text_becomes_numbers():
    assert hmm.lines("ab z" * 200, 500).shape == (2, 250)
    assert hmm.lines("ab z" * 200, 500)[0, :4].tolist() == [0, 1, 26, 25]


def test_share_of_letters_in_the_state_of_their_kind():
    vowel = np.array([c in "aeiou" for c in hmm.SYMBOLS], float)
    assert hmm.right(vowel) == 1
    vowel[[0, 24, 26]] = 0, 1, 1  # a wrong; y and the space are not counted
    assert hmm.right(vowel) == 24 / 25
    assert hmm.right(vowel, np.arange(27) + 1) == 1 - 1 / (378 - 25 - 27)


@pytest.mark.parametrize("options", [{"symbols": 10}, {"restarts": 0}, {"iterations": 0}])
def test_a_wrong_choice(options):
    with pytest.raises(ValueError, match="at least"):
        hmm.Config(**options)
