import numpy as np
import pytest

pytest.importorskip("tensorflow_datasets", reason="needs the extra jaxnet-toolkit[data]")

from experiments import camvid


@pytest.mark.long
def test_a_tiny_net_learns_where_road_and_buildings_are(few_examples, tmp_path):
    config = camvid.Config(
        nets=("8s",), epochs=4, features=(8, 8, 8, 8), blocks=1, balance=0.0,
        data_dir=few_examples(24, 6), output=tmp_path,
    )  # fmt: skip
    results = camvid.run(config)
    (matrix,) = results.confusion["8s"]
    assert matrix.shape == (11, 11) and matrix.sum() > 6 * 120 * 160 * 0.8
    assert 0.3 < np.trace(matrix) / matrix.sum() < 0.95
    assert results.predicted["8s"].shape == (6, 120, 160)
    assert results.history["8s"]["loss"]["train"].shape == (4,)


@pytest.mark.slow
def test_the_table_has_means_over_seeds():
    two = np.zeros((2, 11, 11), int)
    two[:, 0, 0] = 3
    two[1, 0, 1] = 3  # half of the first class are predicted as the second
    text = str(camvid.table({"8s": two, "32s": two}))
    # mean over the classes that occur: 1 and (1/2 + 0) / 2
    assert "sky" in text and "0.750" in text and "0.6250" in text and "66.67%" in text
