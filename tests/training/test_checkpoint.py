"""Files of parameters: everything comes back, nothing is destroyed."""

import os
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import jaxnet as jn
from jaxnet.services import saving
from jaxnet.services.jax_versions import enable_x64
from jaxnet.services.saving import digest, write_file
from jaxnet.training.checkpoint import packed, unpacked

NET = jn.serial(jn.dense(3), jn.batch_norm(), jn.dropout(0.5), jn.dense(2), name="net")
X = jnp.ones(2)


def bits(tree):
    def leaf(a):
        if isinstance(a, jax.Array) and jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            numbers = np.asarray(jax.random.key_data(a)).tolist()
            return str(jax.random.key_impl(a)), numbers
        a = np.asarray(a)
        return a.dtype.name, a.shape, a.tobytes()

    return jax.tree.map(leaf, tree)


def there_and_back(folder, tree, **options):
    """The tree and the config of a file into which a tree was written."""
    jn.save(folder / "a", tree)
    return jn.load(folder / "a", **options)


def test_nested_dicts_come_back_and_keys_are_paths(tmp_path):
    params, state = NET.init(jax.random.key(0), jn.spec((2, 4)))
    jn.save(tmp_path / "net", {"params": params, "state": state}, config={"features": [3, 2]})
    tree, config = jn.load(tmp_path / "net")
    assert bits(tree) == bits({"params": params, "state": state})
    assert config == {"features": [3, 2]}
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
    stored = load_file(tmp_path / "net")
    assert sorted(stored) == [
        "params/batch_norm/bias",
        "params/batch_norm/scale",
        "params/dense/bias",
        "params/dense/kernel",
        "params/dense_1/bias",
        "params/dense_1/kernel",
        "state/batch_norm/mean",
        "state/batch_norm/var",
    ]
    np.testing.assert_array_equal(stored["params/dense/kernel"], params["dense"]["kernel"])


def test_a_network_without_state_comes_back_with_an_empty_one(tmp_path):
    tree = {"params": {"a": jnp.ones(2), "inner": {}}, "state": {}}
    back, config = there_and_back(tmp_path, tree)
    assert bits(back) == bits(tree)
    assert config is None
    back, _ = there_and_back(tmp_path, tree, like=tree)
    assert bits(back) == bits(tree)
    assert there_and_back(tmp_path, {}) == ({}, None)


@pytest.mark.slow
def test_training_goes_on_as_if_never_stopped(tmp_path):
    rng = np.random.default_rng(0)
    batch = rng.normal(size=(8, 4)).astype(np.float32), rng.integers(0, 2, 8)
    objective = jn.supervised(NET, optax.softmax_cross_entropy_with_integer_labels)
    trainer = jn.trainer(objective, optax.adamw(optax.linear_schedule(1e-2, 0, 100)))
    train_state = trainer.init(jax.random.key(5), batch)
    fresh = trainer.init(jax.random.key(5), batch)
    for step in range(6):
        if step == 3:
            jn.save(tmp_path / "run", train_state)
        train_state, metrics = trainer.step(train_state, batch)
    resumed, _ = jn.load(tmp_path / "run", like=fresh)
    assert type(resumed) is jn.TrainState
    assert int(resumed.step) == 3
    assert jax.tree.structure(resumed) == jax.tree.structure(fresh)
    for _ in range(3):  # a second compilation would warn
        resumed, same = trainer.step(resumed, batch)
    assert bits(resumed) == bits(train_state)
    assert float(same["loss"]) == float(metrics["loss"])


def test_like_may_be_shapes(tmp_path):
    key, x = jax.random.key(0), jn.spec((2, 4))
    drawn = NET.init(key, x)
    back, _ = there_and_back(tmp_path, drawn, like=jax.eval_shape(NET.init, key, x))
    assert isinstance(back, tuple)
    assert bits(back) == bits(drawn)


DTYPES = [
    "bool", "int4", "uint4", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64",
    "uint64", "float8_e4m3fn", "float8_e5m2", "bfloat16", "float16", "float32", "float64",
    "complex64", "complex128",
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "shape"), [
    *[(dtype, (2, 3)) for dtype in DTYPES], ("float32", ()), ("float32", (0, 3)), ("int4", ()),
])  # fmt: skip
def test_every_dtype_is_kept(tmp_path, dtype, shape):
    array = (np.arange(np.prod(shape, dtype=int)) % 2).reshape(shape).astype(dtype)
    jn.save(tmp_path / "a", {"a": array})
    for tree, _ in (jn.load(tmp_path / "a"), jn.load(tmp_path / "a", like={"a": array})):
        assert bits(tree) == bits({"a": array})
    with enable_x64(True):
        tree, _ = jn.load(tmp_path / "a")
        assert isinstance(tree["a"], jax.Array)
        assert bits(tree) == bits({"a": array})


def test_values_of_narrow_floats(tmp_path):
    tree = {"a": jnp.asarray([1.5, -2.0, jnp.inf, jnp.nan], jnp.bfloat16)}
    back, _ = there_and_back(tmp_path, tree)
    assert bits(back) == bits(tree)


def test_layouts(tmp_path):
    """Transposed, strided and big-endian arrays, of which safetensors would mix up the order."""
    array = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    tree = {
        "transposed": array.T,
        "strided": array[::2, ::3],
        "big-endian": array.astype(">f4"),
        "big-endian complex": array.astype(">c16"),
    }
    back, _ = there_and_back(tmp_path, tree)
    for name, value in tree.items():
        np.testing.assert_array_equal(back[name], value)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_keys(tmp_path, impl):
    keys = {"one": jax.random.key(7, impl=impl), "many": jax.random.split(jax.random.key(7), 3)}
    jn.save(tmp_path / "a", keys)
    for tree, _ in (jn.load(tmp_path / "a"), jn.load(tmp_path / "a", like=keys)):
        assert bits(tree) == bits(keys)
        drawn = jax.random.uniform(jax.random.key(7, impl=impl))
        assert jax.random.uniform(tree["one"]) == drawn


def test_a_key_of_another_kind_differs(tmp_path):
    tree = {"key": jax.random.key(7, impl="threefry2x32")}
    like = {"key": jax.random.key(7, impl="rbg")}
    with pytest.raises(ValueError, match=r"key: expected \(\) key<rbg>, got \(\) key<fry>"):
        there_and_back(tmp_path, tree, like=like)


def test_lists_and_tuples_without_like_are_dicts(tmp_path):
    tree, _ = there_and_back(tmp_path, {"list": [jnp.ones(1), (jnp.zeros(2),)], "number": 3})
    assert list(tree["list"]) == ["0", "1"]
    assert tree["list"]["1"]["0"].shape == (2,)
    assert tree["number"].dtype == jnp.int32


def test_python_numbers_come_back_exactly(tmp_path):
    tree = {"time": 1700000123.25, "huge": 1e300, "n": 3, "long": 2**40, "on": True, "z": 1 + 1e-9j}
    back, _ = there_and_back(tmp_path, tree)
    assert all(back[name] == value for name, value in tree.items())
    assert back["n"].dtype == jnp.int32
    assert back["time"].dtype == np.float64
    back, _ = jn.load(tmp_path / "a", like=tree)
    assert back == tree
    assert all(type(back[name]) is type(value) for name, value in tree.items())


def test_python_numbers_fit_those_of_their_kind(tmp_path):
    jn.save(tmp_path / "a", {"n": jnp.ones((), jnp.int8), "x": 2.5})
    tree, _ = jn.load(tmp_path / "a", like={"n": 2**40, "x": 1.0})
    assert tree == {"n": 1, "x": 2.5}
    with pytest.raises(ValueError, match=r"n: expected a Python float, got \(\) int8"):
        jn.load(tmp_path / "a", like={"n": 1.0, "x": 1.0})


def test_none_and_empty_containers_come_back(tmp_path):
    tree = {"none": None, "dict": {}, "list": [], "tuple": (), "in": [None, jnp.ones(1), {}]}
    back, _ = there_and_back(tmp_path, tree)
    assert back["none"] is None
    for name in ("dict", "list", "tuple"):
        assert back[name] == tree[name]
    assert back["in"]["0"] is None
    assert back["in"]["2"] == {}
    back, _ = jn.load(tmp_path / "a", like=tree)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for empty in ({}, [], ()):
        assert there_and_back(tmp_path, empty) == (empty, None)


def test_all_that_differs_is_named(tmp_path):
    jn.save(tmp_path / "a", {"p": {"kernel": jnp.ones((3, 4)), "old": X}, "n": jnp.ones(5)})
    params = {"kernel": jn.spec((3, 5)), "new": jn.spec((7,), jnp.bfloat16)}
    like = {"p": params, "n": jn.spec((5,), jnp.int32)}
    with pytest.raises(ValueError) as error:
        jn.load(tmp_path / "a", like=like)
    assert str(error.value) == (
        f"load: {tmp_path / 'a'} does not fit:\n"
        "  n: expected (5,) int32, got (5,) float32\n"
        "  p/kernel: expected (3, 5) float32, got (3, 4) float32\n"
        "  p/new: expected (7,) bfloat16, got nothing\n"
        "  p/old: unknown entry"
    )


# What cannot be saved leaves the old file as it was.


def bad_trees():
    donated = X + 1
    donated.delete()
    hidden = np.ma.masked_array([1.0, 2.0], [True, False])
    longdouble = f"a has dtype {np.dtype(np.longdouble)}, which JAX lacks; write"
    return [
        ({"a": {"name": "conv"}}, TypeError, "a/name must be an array, got str"),
        ({"a": jnp.tanh}, TypeError, "a must be an array, got "),
        ({"a": np.array(["x"])}, TypeError, "a must hold numbers, got dtype <U1"),
        ({"a": np.array([None])}, TypeError, "a must hold numbers, got dtype object"),
        ({"a": np.array(["2020"], "M8[D]")}, TypeError, "a must hold numbers, got dtype "),
        ({"a": np.array([5], "m8[s]")}, TypeError, "a must hold numbers, got dtype "),
        (jnp.ones(2), TypeError, 'the tree needs names, such as {"params": params}, got ArrayImpl'),
        (None, TypeError, "the tree needs names"),
        ({"a/b": X}, ValueError, "a name in the tree has a '/', which separates names: ['a/b']"),
        ({"__metadata__": X}, ValueError, "the name __metadata__ belongs to the"),
        ({"": X}, ValueError, "a name in the tree is empty"),
        ({"a": {"": X}}, ValueError, "a name in the tree is empty"),
        ({"a\ud800": X}, ValueError, "names in the tree must be valid Unicode, got 'a\\ud800'"),
        ({"a": X, 0: X}, TypeError, "the names in a dict must be all "),
        ({"a": np.ones(2, np.longdouble)}, TypeError, longdouble),
        ({"a": 2**70}, TypeError, "a must fit 64 bits, got 1180591620717411303424"),
        ({"a": hidden}, TypeError, "a must be a plain array, got a masked one, whose mask would"),
        ({"w": donated}, ValueError, "w was donated to a step and is gone; save what the step"),
    ]


@pytest.mark.parametrize(("tree", "error", "words"), bad_trees())
def test_what_cannot_be_saved(tmp_path, tree, error, words):
    file = tmp_path / "a"
    jn.save(file, {"old": jnp.ones(3)})
    before = file.read_bytes()
    with pytest.raises(error, match="^save: " + re.escape(words)):
        jn.save(file, tree)
    assert file.read_bytes() == before and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize(("config", "words"), [
    ({"a": [1, {"f": X}]}, "config['a'][1]['f'] must be data that JSON can store, got Arr"),
    ({"a": {3: "x"}}, "config['a'] has the key 3, but keys in JSON must be strings"),
    ({"a": optax.adam}, "config['a'] must be data that JSON can store, got function"),
    (np.float32(1), "config must be data that JSON can store, got float32"),
])  # fmt: skip
def test_config_beyond_json(tmp_path, config, words):
    with pytest.raises(TypeError, match="^save: " + re.escape(words)):
        jn.save(tmp_path / "a", {"a": jnp.ones(1)}, config=config)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("config", [3, [1, 2.5, None, True], {"ä": {"b": ["ß"]}}])
def test_config_comes_back(tmp_path, config):
    jn.save(tmp_path / "a", {"a": jnp.ones(1)}, config=config)
    _, back = jn.load(tmp_path / "a")
    assert back == config


def test_a_folder_and_a_missing_file(tmp_path):
    words = f"{tmp_path} is a folder; name a file in it"
    with pytest.raises(IsADirectoryError, match=f"save: {words}"):
        jn.save(tmp_path, {"a": X})
    with pytest.raises(IsADirectoryError, match=f"load: {words}"):
        jn.load(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"load: there is no file '{tmp_path}/none'"):
        jn.load(tmp_path / "none")


@pytest.mark.parametrize("left", [0, 5, -1], ids=str)
def test_a_file_that_is_cut_short(tmp_path, left):
    jn.save(tmp_path / "a", {"a": jnp.ones(30)})
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes()[:left])
    with pytest.raises(ValueError, match=f"^load: {tmp_path}/a is not a .* file, or is cut short"):
        jn.load(tmp_path / "a")


@pytest.mark.parametrize("drop", ["jaxnet", "sha256"])
def test_a_file_without_its_checksum_is_not_trusted(tmp_path, drop):
    jn.save(tmp_path / "a", {"a": jnp.ones(3)})
    with safe_open(tmp_path / "a", "numpy") as file:
        metadata = {name: word for name, word in file.metadata().items() if name != drop}
    save_file({"a": np.ones(3, np.float32)}, tmp_path / "a", metadata)
    with pytest.raises(ValueError, match="a was changed after it was saved"):
        jn.load(tmp_path / "a")


def test_a_file_that_others_wrote_again_is_whole(tmp_path):
    jn.save(tmp_path / "a", {"p": {"a": jnp.arange(3), "b": jnp.ones((2, 3))}}, config=7)
    with safe_open(tmp_path / "a", "numpy") as file:
        save_file(load_file(tmp_path / "a"), tmp_path / "b", file.metadata())
    _, config = jn.load(tmp_path / "b")
    assert config == 7


@pytest.mark.parametrize(
    "notes",
    [
        "3",
        '{"a": 3}',
        '{"a": {"is": "key", "impl": "x"}}',
        '{"a": {"is": "raw", "dtype": "x"}}',
        '{"b": {}}',
        "{",
        pytest.param("[" * 100_000, id="deep"),
        pytest.param('{"a":' * 100_000 + "1" + "}" * 100_000, id="deep and whole"),
        '{"a": {"is": "key", "impl": "threefry2x32"}}',
        '{"a": {"is": "key", "impl": [[[["x"]]]]}}',
    ],
)
def test_broken_notes(tmp_path, notes):
    arrays = {"a": np.ones(2, np.uint8)}
    metadata = {"config": "null", "jaxnet": notes}
    metadata["sha256"] = digest(arrays.items(), metadata)
    save_file(arrays, tmp_path / "a", metadata)
    with pytest.raises(ValueError, match=f"load: the metadata of {tmp_path}/a is broken"):
        jn.load(tmp_path / "a")


def test_a_file_of_another_format_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(saving, "FORMAT", "jaxnet 9")
    jn.save(tmp_path / "a", {"x": X})
    monkeypatch.undo()
    words = f"a was written by version {jn.__version__} of jaxnet, in"
    with pytest.raises(ValueError, match=words):
        jn.load(tmp_path / "a")
    file = tmp_path / "b"
    file.write_bytes((tmp_path / "a").read_bytes().replace(b"jaxnet 9", b"jaxnet 7"))
    with pytest.raises(ValueError, match="b was changed after it was saved$"):
        jn.load(file)


@pytest.mark.parametrize("like", [3, {"a": "b"}, {"a": None}], ids=str)
def test_likes_that_are_no_trees(tmp_path, like):
    jn.save(tmp_path / "a", {"a": jnp.ones(1)})
    with pytest.raises((TypeError, ValueError), match="^load: "):
        jn.load(tmp_path / "a", like=like)


def test_files_of_others(tmp_path):
    save_file({"conv.weight": np.ones((2, 3))}, tmp_path / "a", {"format": "pt"})
    tree, config = jn.load(tmp_path / "a")
    assert list(tree) == ["conv.weight"]
    assert config is None
    save_file({"a": np.ones(2), "a/b": np.ones(2)}, tmp_path / "a")
    with pytest.raises(ValueError, match="a/b is below an array; no tree can have both"):
        jn.load(tmp_path / "a")


def test_parts_of_several_files_become_one_array(tmp_path):
    """As several processes write them, whatever the devices that read."""
    whole = {
        "a": np.arange(24, dtype=np.float32).reshape(4, 6),
        "c": (np.arange(4) * (1 + 2j)).astype(np.complex64),
        "n": np.int32(7),
        "none": np.zeros((0, 3), np.float32),
    }
    for i, (rows, at) in enumerate([(slice(0, 1), 0), (slice(1, 4), 1)]):
        arrays, notes = packed("save", {f"{name}[{at}]": whole[name][rows] for name in ("a", "c")})
        for name, start in (("a", [at, 0]), ("c", [at])):
            notes[f"{name}[{at}]"] = notes.get(f"{name}[{at}]", {}) | {"of": name, "start": start}
        arrays |= {name: whole[name] for name in ("n", "none")} if i else {}
        write_file("save", tmp_path / str(i), arrays, notes, {"id": "one", "seconds": i})
        write_file("save", tmp_path / f"{i} of another save", arrays, notes, {"id": "other"})
    files = [tmp_path / "0", tmp_path / "1"]
    with pytest.raises(ValueError, match="its files are of several saves"):
        unpacked("load", [tmp_path / "0", tmp_path / "1 of another save"], whole)
    specs = jax.eval_shape(lambda: whole)
    for like in (specs, jax.device_put(jax.tree.map(jnp.zeros_like, whole))):
        assert bits(unpacked("load", files, like)) == bits(whole)


def test_parts_of_an_array_that_several_hosts_share():
    """Each part that is the first of its copies, with the place where it starts."""

    class Shared(np.ndarray):
        is_fully_addressable = False

    whole = np.arange(12.0, dtype=np.float32).reshape(4, 3).view(Shared)
    whole.addressable_shards = []
    for copy, rows in enumerate([slice(2, 4), slice(0, 2)]):
        index = rows, slice(None)
        shard = SimpleNamespace(replica_id=copy, index=index, data=np.asarray(whole)[index])
        whole.addressable_shards.append(shard)
    with pytest.raises(ValueError, match="save: kernel is spread over several hosts"):
        packed("save", {"kernel": whole})
    arrays, notes = packed("save", {"kernel": whole}, parts=True)
    assert notes == {"kernel[2, 0]": {"of": "kernel", "start": [2, 0]}}
    assert list(arrays) == ["kernel[2, 0]"]
    assert arrays["kernel[2, 0]"].tolist() == [[6, 7, 8], [9, 10, 11]]


OF_NUMBERS = {
    "layers": {0: {"kernel": jnp.ones(2)}, 1: {"kernel": jnp.zeros(3)}},
    "deep": {"blocks": {10: {2: jnp.ones(2), -1: jnp.zeros(1)}}, "0": jnp.ones(1)},
    "an empty entry": {0: {}, 1: {"a": jnp.ones(2)}},
}


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_integers_as_names_come_back_as_integers(tmp_path, name):
    tree = OF_NUMBERS[name]
    jn.save(tmp_path / "tree", tree)
    for like in (None, tree):
        found, _ = jn.load(tmp_path / "tree", like)
        assert jax.tree.structure(found) == jax.tree.structure(tree)
        jax.tree.map(np.testing.assert_array_equal, found, tree)


@pytest.mark.parametrize("key", [None, (1, 2), 0.5, True, b"a"])
def test_other_names_are_refused(tmp_path, key):
    with pytest.raises(TypeError, match="a name in a dict must be a str or an int"):
        jn.save(tmp_path / "tree", {key: jnp.ones(2)})


def nested(kind, depth=100_000):
    tree = np.ones(3)
    for _ in range(depth):
        tree = {"a": tree} if kind is dict else kind([tree])
    return tree


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_what_is_nested_too_deeply_is_an_error(kind, tmp_path):
    with pytest.raises(ValueError, match="^save: the tree is nested more than 500 deep"):
        jn.save(tmp_path / "a", {"b": nested(kind)})
    with pytest.raises(ValueError, match="^save: config is nested too deeply for JSON, or"):
        jn.save(tmp_path / "a", {"b": np.ones(3)}, config=nested(kind))
    jn.save(tmp_path / "a", {"b": np.ones(3)})
    with pytest.raises(ValueError, match="^load: the tree is nested more than 500 deep"):
        jn.load(tmp_path / "a", like=nested(kind))


def test_what_holds_itself_is_an_error(tmp_path):
    tree = {"a": np.ones(3)}
    tree["b"] = [tree, tree]
    with pytest.raises(ValueError, match="or an entry holds the tree itself$"):
        jn.save(tmp_path / "a", tree)


def test_a_tree_as_deep_as_jax_can_follow_is_saved(tmp_path):
    tree = nested(dict, 200)
    jn.save(tmp_path / "a", tree)
    loaded, _ = jn.load(tmp_path / "a", like=tree)
    assert jax.tree.structure(loaded) == jax.tree.structure(tree)
