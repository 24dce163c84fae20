"""Several processes: what each is told, and one process that is alone. Real ones: test_spmd."""

import jax
import pytest

from cat import hosts
from routers.errors import InputError


@pytest.fixture
def asked(monkeypatch):
    """What ``jax.distributed.initialize`` was asked, without joining anybody."""
    calls = []
    for name in hosts.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given: calls.append(given))
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: bool(calls))
    return calls


def test_the_variables_say_who_is_who(asked, monkeypatch):
    for name, value in zip(hosts.VARIABLES, ("host:1", "4", "0"), strict=True):
        monkeypatch.setenv(name, value)
    hosts.start()
    hosts.start()  # joined already
    assert asked == [("host:1", 4, 0)]


def test_without_them_jax_looks_for_a_cluster(asked):
    hosts.start()
    assert asked == [()]


def test_half_of_the_variables_is_refused(asked, monkeypatch):
    monkeypatch.setenv(hosts.VARIABLES[0], "host:1")
    monkeypatch.setenv(hosts.VARIABLES[1], "4")
    with pytest.raises(InputError, match=r"they are '4' and '', give whole numbers") as error:
        hosts.start()
    assert "\n" not in str(error.value)
    assert not asked


def test_no_cluster_is_one_line(asked, monkeypatch):
    def none(*given):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", none)
    with pytest.raises(InputError, match=r"no cluster that JAX knows .*JAX_NUM_PROCESSES") as error:
        hosts.start()
    assert "\n" not in str(error.value)


def test_one_process_asks_nobody():
    assert hosts.first()
    hosts.wait("here")
    assert hosts.any_says(True)
    assert not hosts.any_says(False)
    model = object()
    with hosts.alone(lambda: model) as here:
        assert here() is model
