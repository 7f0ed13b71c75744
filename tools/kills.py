"""Runs that are killed again and again, and must end with the bits of one that was not.

    python -m tools.kills --kills 50
    python -m tools.kills --scenario full_disk --runs 50

Each kind of run is a program that prints a line after every few steps. It is killed (kill -9) after
a random number of lines, started again, and so on; in the end its train_state and its log must be
those of an undisturbed run. It counts how many starts resumed in the middle of a pass. With
`--scenario` it runs one of `tools/scenarios.py` instead.
"""

import argparse
import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Kind(NamedTuple):
    """A kind of run: processes, and devices of each."""

    processes: int = 1
    devices: int = 1


KINDS = {
    "resident": Kind(),  # arrays on the device, augmented, with dropout
    "grain": Kind(),  # batches of grain, read ahead by grain and by feed
    "sharded": Kind(devices=4),  # fully sharded over four devices
    "processes": Kind(processes=2),  # each with its slice of grain's batches
}


def child(kind: str, folder: str, port: str, index: int) -> None:
    """The program that is killed."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from jax.sharding import PartitionSpec as P

    import jaxnet as jn

    count = KINDS[kind].processes
    if count > 1:
        jax.distributed.initialize(f"localhost:{port}", count, index, heartbeat_timeout_seconds=10)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(90, 8)).astype(np.float32)
    y = rng.integers(0, 3, 90).astype(np.int32)
    net = jn.serial(jn.dense(64), jn.batch_norm(), jax.nn.relu, jn.dropout(0.2), jn.dense(3))
    objective = jn.supervised(net, optax.softmax_cross_entropy_with_integer_labels)
    if kind == "resident":

        def noise(key, batch):
            return batch[0] + jax.random.normal(key, batch[0].shape), batch[1]

        objective = jn.augmented(objective, noise)
    trainer = jn.trainer(objective, optax.adam(1e-2))
    mesh = jax.make_mesh((len(jax.devices()),), ("data",))
    data, steps = (x, y), {"epochs": 5}  # 8 steps in a pass
    if kind in ("grain", "processes"):
        data = jn.distributed.feed(loader(x, y, index, count), mesh, P("data"))
        steps = {"steps": 40}
    elif kind == "sharded":
        data = jn.distributed.put((x[:88], y[:88]), mesh, P("data"))
    rule = jn.distributed.fully_sharded("data", mesh, smallest=100) if kind == "sharded" else P()
    specs = jn.spec((12, 8)), jn.spec((12,), jnp.int32)
    train_state = jn.distributed.put(trainer.init(jax.random.key(0), specs), mesh, rule)
    with jn.Checkpoints(Path(folder) / "kept") as kept:
        train_state, position = kept.newest(train_state)
        where = (position.epoch, position.done) if position else ("new", 0)
        print("resumed", *where, flush=True)
        options = {"batch_size": 12, "shuffle": True, "every": 3, "progress": False}
        run = jn.fit(trainer, train_state, data, **steps, **options, position=position)
        for epoch in run:
            kept.save(epoch)
            jn.training.append_log(Path(folder) / "log.jsonl", epoch)
            print("step", epoch.step, flush=True)
            train_state = epoch.train_state
            time.sleep(0.1)
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(train_state):
        for shard in leaf.addressable_shards:
            digest.update(np.asarray(shard.data).tobytes())
    print("end", digest.hexdigest(), flush=True)


def loader(x, y, index: int, count: int):
    """Batches of grain for one of several processes, each of its own examples, without end."""
    import grain

    rows = grain.MapDataset.range(90).seed(3).shuffle().repeat()
    rows = rows.slice(slice(index, None, count))
    rows = rows.map(lambda i: {"x": x[i], "y": y[i]}).batch(12 // count)
    rows = rows.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4))
    return rows.map(lambda batch: (batch["x"], batch["y"]))


class Start(NamedTuple):
    """What came of one start: where it resumed, its lines, and its end, if it was not killed."""

    resumed: tuple[str, int] | None
    lines: int
    end: list[str]


def start(kind: str, folder: Path, kill_after: int | None) -> Start:
    """Starts the processes of a run, and kills all of them after a number of lines of the first."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    processes, devices = KINDS[kind]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder.parent / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    command = [sys.executable, "-m", "tools.kills", "--child", kind, str(folder), port]
    running = []
    for index in range(processes):
        with open(folder / f"errors.{index}", "w", encoding="utf-8") as errors:
            process = subprocess.Popen(
                [*command, str(index)],
                env=environment,
                cwd=ROOT,
                text=True,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        running.append(process)
    resumed, lines = None, 0
    for line in running[0].stdout or ():
        words = line.split()
        if words[:1] == ["resumed"]:
            resumed = words[1], int(words[2])
        lines += words[:1] == ["step"]
        if words[:1] == ["end"]:
            end = [words[1]]
            break
        if kill_after is not None and lines >= kill_after:
            end = []
            for process in running:
                process.send_signal(signal.SIGKILL)
            break
    else:
        raise AssertionError(f"{kind}: {(folder / 'errors.0').read_text(encoding='utf-8')[-3000:]}")
    for process in running[1:] if end else ():
        end += [line.split()[1] for line in process.stdout or () if line.startswith("end")]
    for process in running:
        process.communicate()
    return Start(resumed, lines, end)


def losses(folder: Path) -> list[tuple[int, float]]:
    """The log of a run without its seconds."""
    rows = [
        json.loads(line) for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return [(row["step"], row["train/loss"]) for row in rows]


def check(kind: str, kills: int, seed: int, place: Path) -> int:
    """Runs a kind undisturbed and with kills; returns the number of starts resumed in mid-pass."""
    rng = random.Random(seed)
    calm, killed = place / f"{kind}.calm", place / f"{kind}.{seed}"
    calm.mkdir(exist_ok=True)
    killed.mkdir()
    if not (calm / "end").exists():
        (calm / "end").write_text(json.dumps(start(kind, calm, None).end), encoding="utf-8")
    middle = 0
    for left in range(kills, -1, -1):
        found = start(kind, killed, rng.randint(1, 4) if left else None)
        middle += found.resumed is not None and found.resumed[1] > 0
        if found.end:
            break
    if left:
        raise AssertionError(f"{kind}: {left} of {kills} kills came too late")
    assert found.end == json.loads((calm / "end").read_text(encoding="utf-8")), (
        f"{kind}, seed {seed}: other bits"
    )
    assert losses(killed) == losses(calm), f"{kind}, seed {seed}: another log"
    return middle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=list(KINDS))
    parser.add_argument("--child", nargs=4)
    parser.add_argument("--scenario", help="a name in tools/scenarios.py, or all")
    parser.add_argument("--runs", type=int, default=50)
    args = parser.parse_args()
    if args.scenario:
        from tools import scenarios

        names = list(scenarios.SCENARIOS) if args.scenario == "all" else [args.scenario]
        for name in names:
            scenarios.main(name, args.runs, args.seed)
        return
    if args.child:
        kind, folder, port, index = args.child
        child(kind, folder, port, int(index))
        return
    per_run = 5
    kinds = [args.kind] if args.kind else ["resident", "grain", "sharded", "processes", "grain"]
    with tempfile.TemporaryDirectory() as place:
        done = middle = 0
        while done < args.kills:
            kind = kinds[done // per_run % len(kinds)]
            found = check(kind, per_run, args.seed + done, Path(place))
            done, middle = done + per_run, middle + found
            print(f"{kind}: {done} kills, {middle} resumed in the middle of a pass", flush=True)


if __name__ == "__main__":
    main()
