"""What users, PyPI and GitHub get: the wheel, its types, its version, the project's own files."""

import ctypes
import importlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

import jaxnet as jn
from jaxnet.data import builders
from jaxnet.ops import native
from tests.texts.form import ROOT
from tests.texts.project import NAME, PROJECT


def test_the_version_is_that_of_the_distribution(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", lambda name: f"that of {name}")
    assert jn.__version__ == f"that of {NAME}"
    assert "__version__" in dir(jn)
    assert "__version__" not in vars(jn)  # read when asked for
    assert PROJECT["version"] not in (ROOT / "jaxnet" / "__init__.py").read_text()


def test_a_folder_that_is_not_installed_has_no_version(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert jn.__version__ == "unknown"


def test_files_of_the_other_jaxnet_are_told():
    """Its `__init__.py` over ours begins with this import, which then meets our `jaxnet.core`."""
    words = f"two projects are mixed.*pip uninstall -y jaxnet {NAME}"
    with pytest.raises(ImportError, match=words):
        from jaxnet.core import parametrized  # noqa: F401
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        from jaxnet.core import nothing  # noqa: F401


@pytest.mark.parametrize(("name", "cause", "raised"), [
    ("absent", None, pytest.skip.Exception), ("absent.part", ValueError, pytest.skip.Exception),
    ("misspelt", None, ModuleNotFoundError), ("numpy.absent", None, ModuleNotFoundError),
])  # fmt: skip
def test_a_package_of_full_that_is_missing_skips(name, cause, raised, pytestconfig, monkeypatch):
    conftest = pytestconfig.pluginmanager.get_plugin(str(ROOT / "conftest.py"))
    monkeypatch.setattr(conftest, "OPTIONAL", {"absent", "numpy"})
    with pytest.raises(raised), conftest.skipped_without_full():
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if cause is None:
                raise
            raise cause("no such data") from error


@pytest.mark.slow
def test_import_brings_no_heavy_module():
    code = "import sys, jax, optax; m = {*sys.modules}; import jaxnet; print(*{*sys.modules} - m)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    loaded = set(run.stdout.split())
    heavy = set("matplotlib sklearn flax tensorflow_datasets torch scipy PIL".split())
    assert "jaxnet" in loaded
    assert not (heavy | {f"jaxnet.{name}" for name in jn._LATER}) & loaded


TWICE = """
import jax, jax.numpy as jnp, jaxnet as jn

x, key, traces = jnp.ones((2, 8, 8)), jax.random.key(0), {}
layers = [jn.conv(8, 3), jn.max_pool(3, strides=2), jn.lstm(8), jn.multi_head_attention(2),
          jn.batch_norm(), jn.dropout(0.5), jn.dense(8), jn.moe(jn.dense(8), 4, 2)]
for layer in layers:
    params, state = layer.init(key, x)

    @jax.jit
    def step(params):
        traces[layer.name] = traces.get(layer.name, 0) + 1
        loss = lambda params: layer.apply(params, state, x, key=key, train=True)[0].sum()
        return jax.value_and_grad(loss)(params)

    step(params), step(params)
print({name for name, count in traces.items() if count > 1} or "once")
"""


@pytest.mark.slow
def test_the_first_program_of_a_process_is_compiled_once():
    """A module that JAX loads while it traces may add an option, and JAX then compiles again."""
    run = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, cwd=ROOT)
    assert run.stdout.strip() == "once", run.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of a wheel and an sdist."""
    if shutil.which("uv") is None:
        pytest.skip("needs uv, which .ci/run installs")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run(["uv", "build", "--quiet", "--out-dir", str(out), str(ROOT)], check=True)
    return out


@pytest.mark.slow
def test_what_is_in_the_wheel_and_the_sdist(built):
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "jaxnet").rglob("*.py")}
    assert modules | {"jaxnet/py.typed", "jaxnet/viz/jaxnet.mplstyle"} <= inside
    (licence,) = (name for name in inside if name.endswith("/licenses/LICENSE"))
    assert {name.split("/")[0] for name in inside} == {"jaxnet", licence.split("/")[0]}
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert modules | {"LICENSE", "README.md", "jaxnet/py.typed"} <= names
    assert not {name.split("/")[0] for name in names} & {"tests", "experiments", "colab", "docs"}


PROGRAM = """\
import jaxnet as jn
net: jn.Layer = jn.dense("ten")
print(jn.densse(3), jn.models.mlp([3]).nothing, jn.__version__ + 1)
"""


@pytest.mark.slow
def test_a_type_checker_finds_mistakes_in_a_users_program(built, tmp_path):
    """mypy reads the annotations of an installed package only if it has py.typed."""
    (wheel,) = built.glob("*.whl")
    subprocess.run(["uv", "venv", "--quiet", tmp_path / "env"], check=True)
    install = ["uv", "pip", "install", "--quiet", "--python", tmp_path / "env"]
    subprocess.run([*install, "--no-deps", wheel], check=True)
    subprocess.run([*install, "mypy"], check=True)
    (tmp_path / "user.py").write_text(PROGRAM)
    (python,) = [*tmp_path.glob("env/bin/python"), *tmp_path.glob("env/Scripts/python.exe")]
    run = [python, "-m", "mypy", "--no-incremental", "user.py"]
    printed = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True).stdout
    for words in (
        'user.py:2: error: Argument 1 to "dense" has incompatible type "str"; expected "int"',
        'user.py:3: error: Module has no attribute "densse"',
        'user.py:3: error: "Layer" has no attribute "nothing"',
        'user.py:3: error: Unsupported operand types for + ("str" and "int")',
        "Found 4 errors in 1 file",
    ):
        assert words in printed, printed


RELEASE = (ROOT / ".ci" / "release").read_text()
(ZIG,) = re.findall(r"uvx --quiet --from ziglang==[\d.]+ python-zig", RELEASE)
TARGETS = re.findall(r"^wheel \w+ (\S+)$", RELEASE, re.M)


@pytest.mark.long
@pytest.mark.parametrize("target", TARGETS)
def test_kernels_compile(target, tmp_path):
    if shutil.which("uvx") is None or subprocess.run([*ZIG.split(), "version"]).returncode:
        pytest.skip("needs uv and the package ziglang")
    sources = native.LIBRARY.parent.glob("*.c")
    library = tmp_path / "kernels.so"
    options = ["-std=gnu11", "-O1", "-w", "-fno-math-errno", "-s", "-shared", "-o", library]
    subprocess.run([*ZIG.split(), "cc", "-target", target, *options, *sources], check=True)
    made = library.read_bytes()
    assert all(name.encode() in made for name in (*native.TARGETS, "jaxnet_use"))
    assert all(int(minor) <= 28 for minor in re.findall(rb"GLIBC_2\.(\d+)", made))
    if target.startswith(f"{os.uname().machine}-{sys.platform}"):
        level = ctypes.CDLL(str(library)).jaxnet_level()
        assert native.LEVELS[level] == native.instructions() or not native.instructions()


@pytest.mark.long
def test_kernels_compiled_without_avx512_use_avx2(tmp_path):
    """As an install compiles them for a processor that does not have it."""
    if shutil.which("gcc") is None or native.instructions() not in (
        "AVX2",
        "AVX-512",
        "AVX-512-BF16",
    ):
        pytest.skip("needs GCC and a processor with AVX2")
    folder = native.LIBRARY.parent
    library = tmp_path / "kernels.so"
    sources = [*folder.glob("avx2_*.c"), folder / "kernels.c"]
    options = ["-std=gnu11", "-O1", "-w", "-DWITHOUT_AVX512", "-fPIC", "-shared", "-o", library]
    subprocess.run(["gcc", *options, *sources], check=True)
    made = ctypes.CDLL(str(library))
    assert native.LEVELS[made.jaxnet_level()] == "AVX2" == native.LEVELS[made.jaxnet_use(4)]


@pytest.mark.long
@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize("platform", [
    "x86_64-pc-windows-msvc", "aarch64-apple-darwin", "x86_64-manylinux_2_28",
])  # fmt: skip
def test_extras_can_be_installed(platform, version):
    if shutil.which("uv") is None:
        pytest.skip("needs uv")
    accelerators = {"cuda12", "cuda13", "tpu"}  # of Linux
    extras = [f"--extra={x}" for x in PROJECT["optional-dependencies"] if x not in accelerators]
    system = [f"--python-platform={platform}", f"--python-version={version}"]
    wheels = ["--only-binary=:all:", "--no-binary=promise"]  # TensorFlow Datasets', all in Python
    command = ["uv", "pip", "compile", "--quiet", *extras, *system, *wheels, "pyproject.toml"]
    environment = os.environ | {"MACOSX_DEPLOYMENT_TARGET": "14.0"}  # onnxruntime's
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    if re.search("error sending request|Failed to fetch|Connect|dns", done.stderr):
        pytest.skip("needs a package index")
    assert not done.returncode, done.stderr


def test_windows_is_told_that_it_cannot_read_array_records(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(builders, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"^load: .* does not exist for Windows. Run this in WSL"):
        builders.datasets_package("load")


WITHOUT_UNIX = """
import os, pathlib, signal, sys, types
import jax, optax, safetensors, sklearn.datasets
locks = []
sys.modules["fcntl"] = sys.modules["resource"] = None
sys.modules["msvcrt"] = types.SimpleNamespace(
    LK_NBLCK=2, locking=lambda number, mode, size: locks.append((mode, size))
)
for name in ("fork", "fchown", "O_NOFOLLOW", "O_CLOEXEC", "sched_getaffinity"):
    delattr(os, name)
del signal.SIGALRM
sys.platform = "win32"

rename = pathlib.Path.rename
def rename_closed(path, to):  # Windows moves no file that is open or mapped
    links = [os.path.realpath(f"/proc/self/fd/{n}") for n in os.listdir("/proc/self/fd")]
    maps = pathlib.Path("/proc/self/maps").read_text().split()
    assert not [word for word in links + maps if word.startswith(f"{path}/")], path
    return rename(path, to)
pathlib.Path.rename = rename_closed

import jaxnet as jn
train, test = jn.data.digits()
trainer = jn.trainer(jn.supervised(
    jn.serial(jn.flatten(), jn.dense(10)), optax.softmax_cross_entropy_with_integer_labels
), optax.adam(1e-2))
for epochs in (3, 6):
    with jn.Checkpoints(sys.argv[1], keep=1) as kept:
        state, position = kept.newest(trainer.init(jax.random.key(0), train))
        for epoch in jn.fit(trainer, state, train, position=position, epochs=epochs):
            kept.save(epoch)
jn.save(sys.argv[1] + "/net.safetensors", state.params)
assert locks and {mode for mode, size in locks} == {2}
print(*sorted(os.listdir(sys.argv[1])))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.long
def test_a_run_is_saved_without_what_only_unix_has(tmp_path):
    command = [sys.executable, "-c", WITHOUT_UNIX, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert not done.returncode, done.stderr
    assert done.stdout == ".lock 138 net.safetensors\n"
