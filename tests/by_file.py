"""Which worker runs which tests, also after a worker has died."""

from xdist.scheduler import LoadScopeScheduling

# Files of long tests whose cases share nothing.
EXPERIMENTS = ("images", "lectures", "sequences", "short_runs")
BY_CASE = {"tests/colab/test_notebooks.py", "tests/test_guide.py", "tests/test_laws.py"}
BY_CASE |= {f"tests/experiments/test_{name}.py" for name in EXPERIMENTS}


class ByFile(LoadScopeScheduling):
    """A file, or of some a test or case, stays on one worker, for what it has compiled.

    If a worker dies, pytest-xdist 3.8 gives its whole work to the next one: what is done, which
    leaves that worker waiting forever, and the deadly test, which kills it as well. Here the next
    one gets what is left.
    """

    def _split_scope(self, nodeid):
        file, _, test = nodeid.partition("::")
        case = test.partition("[")[2].rstrip("]").partition("-")[0] or test
        return f"{file} {case}" if file in BY_CASE else file

    def remove_node(self, node):
        """The test that the worker died in; None if it had finished."""
        units = self.assigned_work[node].items()
        left = {scope: [test for test in unit if not unit[test]] for scope, unit in units}
        died_in = next((test for tests in left.values() for test in tests), None)
        rest = {scope: [t for t in tests if t != died_in] for scope, tests in left.items()}
        work = {scope: dict.fromkeys(tests, False) for scope, tests in rest.items() if tests}
        self.assigned_work[node] = work
        super().remove_node(node)
        return died_in

    def schedule(self):
        replaced = self.collection is not None
        super().schedule()
        if replaced:  # a worker starts a test when it knows the next one, or that it is the last
            for node in self.nodes:
                self._reschedule(node)

    def _reschedule(self, node):
        if node in self.registered_collections:  # else it has yet to collect
            super()._reschedule(node)


def pytest_xdist_make_scheduler(config, log):
    return ByFile(config, log)
