"""Requests to stop: which signals are recorded, and where."""

import os
import signal
import threading

import pytest

from jaxnet.services import preemption


def test_a_signal_that_is_ignored_stays_so():
    """As SIGHUP is under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with preemption.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not preemption.asked()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_without_a_signal_nothing_happens():
    with preemption.listening():
        assert not preemption.asked()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_other_threads_are_left_alone():
    found = []

    def run():
        with preemption.listening():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def test_an_exit_says_what_is_lost(capsys):
    preemption.leave("predict", "its outputs are lost")  # nothing was asked
    with pytest.raises(SystemExit) as stopped, preemption.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.soon_asked() and preemption.stops()
        preemption.leave("predict", "its outputs are lost", "a train_state")
    assert stopped.value.code == 143
    words = "predict: SIGTERM asked this run to stop; its outputs are lost"
    assert words in capsys.readouterr().err
    assert not preemption.stops() and not preemption.listens()


def test_a_request_that_all_processes_know_ends_each_of_them():
    with pytest.raises(SystemExit) as stopped, preemption.listening():
        preemption.agree()
        assert preemption.stops() and not preemption.asked()
    assert stopped.value.code == 143 and not preemption.stops()


def test_nobody_waits_for_a_signal_that_is_not_recorded():
    assert not preemption.soon_asked()
