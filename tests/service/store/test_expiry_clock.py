"""Data expires by a clock that does not follow jumps of the system's clock before they have lasted for a while."""

import pytest

from penchant.service.store.database import Store
from penchant.service.store.expiry_clock import ExpiryClock, find_clock_record

DAY = 86_400.0
START = 1_800_000_000.0


class Machine:
    """A machine whose clock can be set, with the uptime of the process that runs on it."""

    def __init__(self, database, wall=START):
        self.database = database
        self.wall = wall
        self.uptime = 0.0
        self.restart()

    def restart(self, stopped_for=0.0):
        self.wall += stopped_for
        self.clock = ExpiryClock(lambda: self.wall, DAY, lambda: self.uptime)

    def run(self, seconds=600.0):
        """Run for a while, and return the time by which data expires."""
        self.wall += seconds
        self.uptime += seconds
        with self.database.writing() as connection:
            now = self.clock.now(connection)
            self.clock.record(connection)
        return now


@pytest.fixture
def database(settings):
    opened = Store.open(settings)
    yield opened
    opened.close()


@pytest.fixture
def machine(database):
    machine = Machine(database)
    machine.run()
    return machine


def test_time_passes(machine):
    for hours in (0.1, 1.0, 50.0):
        assert machine.run(hours * 3600) == machine.wall
        assert machine.clock.difference == 0


def test_a_jump_for_seconds_has_no_effect(machine):
    machine.wall += 400 * DAY
    assert machine.run(12) == START + 612
    assert machine.clock.difference == 400 * DAY
    machine.wall -= 400 * DAY
    assert machine.run() == machine.wall
    assert machine.clock.difference == 0


def test_a_jump_just_before_a_restart_has_no_effect(machine):
    machine.wall += 400 * DAY
    machine.run(12)
    machine.restart()
    assert machine.run(12) == START + 612  # it did not run between the last record and the restart
    machine.restart()
    machine.wall -= 400 * DAY
    assert machine.run() == machine.wall


def test_a_start_with_a_wrong_clock_has_no_effect(machine):
    machine.restart(stopped_for=400 * DAY)
    assert machine.run(12) == START + 600
    assert machine.run(600) == START + 1200


def test_after_a_long_stop_data_expires_after_a_day_of_uptime(machine):
    """Stops in between do not count, and do not start the day again."""
    machine.restart(stopped_for=90 * DAY)
    machine.run(0)
    while machine.clock.difference:
        assert machine.uptime < 600 + DAY + 3600
        machine.run(3600)
        if machine.uptime == 12 * 3600 + 600:
            machine.restart(stopped_for=DAY / 2)
            machine.run(0)
    assert machine.uptime >= 600 + DAY
    assert machine.run() == machine.wall
    with machine.database.reading() as connection:
        record = find_clock_record(connection)
    assert (record.last_written, record.disputed_since) == (machine.wall, None)


def test_a_clock_set_back_delays_expiry_and_breaks_nothing(machine):
    machine.wall = 1000.0  # such as before NTP answers
    assert machine.run() == 1600.0
    machine.restart()
    assert machine.run() == 2200.0
    machine.wall = START + 1800
    assert machine.run() == START + 2400
    assert machine.clock.difference == 0


def test_a_clock_that_was_wrong_for_long_is_corrected(machine):
    machine.wall += 400 * DAY
    for _ in range(26):
        machine.run(3600)
    assert machine.clock.difference == 0
    machine.wall -= 400 * DAY
    assert machine.run() == machine.wall
    for _ in range(26):
        machine.run(3600)
    machine.wall += 300 * DAY  # which the store has once believed
    assert machine.run(0) == machine.wall - 300 * DAY


def test_a_server_with_a_wrong_clock_is_overruled_by_another(machine, database):
    wrong = Machine(database, wall=START + 400 * DAY)
    for _ in range(72):
        assert machine.run(3600) == machine.wall
        assert wrong.run(3600) == machine.wall


def test_two_servers_together_wait_no_less_than_one(machine, database):
    machine.restart(stopped_for=90 * DAY)
    other = Machine(database, wall=machine.wall)
    uptime = 0.0
    machine.run(0)
    while machine.clock.difference:
        uptime += 3600
        machine.run(3600)
        other.run(3600)
    assert uptime == DAY


def test_moments_are_limited_without_reading_the_store(machine):
    assert machine.clock.limit(machine.wall + DAY / 2) == machine.wall + DAY / 2
    assert machine.clock.limit(machine.wall + 2 * DAY) == machine.wall
    machine.uptime += 60
    assert machine.clock.limit(machine.wall + 2 * DAY) == machine.wall + 60
    assert machine.clock.limit(5.0) == 5.0
    machine.restart()
    assert machine.clock.limit(7 * machine.wall) == 7 * machine.wall  # nothing is known yet
