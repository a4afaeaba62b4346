"""
Ports for servers that other processes start as well.
"""

import itertools

from selfheal.testing.programs import _APART, _PORTS, free_port


def test_neighbouring_processes_begin_far_apart():
    """
    Of fifty processes with neighbouring numbers none gets to the first port of another within 300 servers.
    """
    begins = sorted(number * _APART % len(_PORTS) for number in range(50))
    begins.append(begins[0] + len(_PORTS))
    assert min(later - earlier for earlier, later in itertools.pairwise(begins)) > 300


def test_no_port_is_given_twice():
    """
    A server that is stopped keeps its port: the next one gets another.
    """
    assert 50 == len({free_port() for _ in range(50)})
