"""
Every event becomes a record that any formatter can show, and no secret gets out by accident.
"""

import gc
import io
import json
import logging
import weakref

import pytest

from selfheal import names
from selfheal.export import attach
from selfheal.export.logging import LogExporter


class Records(logging.Handler):
    """
    Keeps what is written.
    """

    def __init__(self):
        super().__init__()
        self.kept = []

    def emit(self, record):
        self.kept.append(record)


@pytest.fixture
def logger():
    """A logger of its own, that lets everything through."""
    made = logging.getLogger("selfheal.test")
    made.setLevel(logging.DEBUG)
    made.propagate = False
    made.records = Records()
    made.handlers[:] = [made.records]
    return made


def keys_of(record):
    """What a record has beyond the attributes of every record."""
    plain = {*logging.makeLogRecord({}).__dict__, "message", "asctime"}  # formatters leave the last two behind
    return {key: value for key, value in record.__dict__.items() if key not in plain}


class PostgresError(Exception):
    """
    As psycopg's: it has an SQLSTATE.
    """

    sqlstate = "57P01"


def fields_of(name):
    """A value for each field of an event."""
    return {field: f"{field} of {name}" for field in names.EVENTS[name].fields}


class TestRecords:
    @pytest.mark.parametrize("name", names.EVENTS)
    def test_say_everything_about_the_event(self, stage, logger, name):
        """
        The message is the event's name, the level is the table's, and each field has a key of its own.
        """
        LogExporter(logger).attach(stage)
        stage.say(name, **fields_of(name))
        (record,) = logger.records.kept

        fields = {f"selfheal_{field}": value for field, value in fields_of(name).items()}
        own = {"selfheal_check": "orders", "selfheal_resource": "orders_db", "selfheal_incident": None}
        assert (name, names.EVENTS[name].level) == (record.getMessage(), record.levelno)
        assert fields | own == keys_of(record)

    def test_no_field_stands_in_for_the_check(self, stage, logger):
        """
        A field that an action made up cannot pretend to be another check, nor replace a record's own attribute.
        """
        LogExporter(logger).attach(stage)
        stage.say(names.ACTION_LOGGED, action="drain", rung=0, message="m", name="x", msg="y", incident=9)
        (record,) = logger.records.kept

        assert None is record.selfheal_incident
        assert ("selfheal.test", names.ACTION_LOGGED) == (record.name, record.msg)

    def test_exhausted_is_an_error(self, stage, logger):
        """
        The end of the ladder is logged as an error, also where only errors are let through.
        """
        logger.setLevel(logging.ERROR)
        LogExporter(logger).attach(stage)
        stage.say(names.STATE_CHANGED, from_state="idle", to_state="detecting", reason="")
        stage.say(names.STATE_CHANGED, from_state="recovering", to_state="exhausted", reason="")

        assert [(logging.ERROR, "exhausted")] == [(r.levelno, r.selfheal_to_state) for r in logger.records.kept]

    def test_of_a_level_that_is_off_are_not_asked_for(self, stage, logger):
        """
        With DEBUG off nobody listens to the runs of checks, so they cost nothing.
        """
        logger.setLevel(logging.INFO)
        LogExporter(logger).attach(stage)
        ((_, wanted),) = stage.listeners

        assert names.CHECK_COMPLETED not in wanted
        assert names.INCIDENT_OPENED in wanted

    def test_end_when_it_is_taken_off(self, stage, logger):
        """
        The answer of attach ends it.
        """
        LogExporter(logger).attach(stage)()

        assert [] == stage.listeners


class TestErrors:
    @pytest.mark.parametrize(
        ("error", "expected"),
        [
            (ValueError("s3cret"), {"selfheal_error_type": "ValueError"}),
            (PostgresError("s3cret"), {"selfheal_error_type": "PostgresError", "selfheal_sqlstate": "57P01"}),
            (
                ConnectionResetError(104, "s3cret"),
                {"selfheal_error_type": "ConnectionResetError", "selfheal_errno": 104},
            ),
            (TimeoutError("s3cret"), {"selfheal_error_type": "TimeoutError"}),
            (OSError("s3cret", "an errno that is none"), {"selfheal_error_type": "OSError"}),
        ],
    )
    def test_are_told_by_class_and_code_alone(self, stage, logger, error, expected):
        """
        Of an exception the record has class, SQLSTATE and errno, and its text nowhere.
        """
        LogExporter(logger).attach(stage)
        stage.say(names.CHECK_COMPLETED, status="unhealthy", kind="error", error=error)
        (record,) = logger.records.kept

        assert expected == {
            key: value for key, value in keys_of(record).items() if key.startswith(("selfheal_err", "selfheal_sql"))
        }
        assert "s3cret" not in repr(record.__dict__)

    def test_show_text_and_traceback_when_asked_for(self, stage, logger):
        """
        With log_errors the text and the traceback are there, redacted first.
        """
        LogExporter(logger, log_errors=True, redact=lambda text: text.replace("s3cret", "***")).attach(stage)
        try:
            raise ValueError("password is s3cret")
        except ValueError as exc:
            stage.say(names.CHECK_COMPLETED, status="unhealthy", kind="error", error=exc)
        (record,) = logger.records.kept

        assert "password is ***" == record.selfheal_error
        assert record.selfheal_traceback.startswith("Traceback")
        assert "s3cret" not in repr(record.__dict__)

    def test_what_people_wrote_is_redacted_too(self, stage, logger):
        """
        Texts of probes and actions pass through redact, numbers and names stay what they are.
        """
        LogExporter(logger, redact=lambda text: text.replace("s3cret", "***")).attach(stage)
        stage.say(names.ACTION_LOGGED, action="drain", rung=0, message="s3cret", table="s3cret", rows=3)
        (record,) = logger.records.kept

        assert ("***", "***", 3, "orders") == (
            record.selfheal_message,
            record.selfheal_table,
            record.selfheal_rows,
            record.selfheal_check,
        )

    def test_a_redact_that_fails_lets_nothing_through(self, stage, logger):
        """
        Rather no record than one that was not redacted.
        """

        def broken(text: str) -> str:
            raise LookupError(text)

        LogExporter(logger, redact=broken).attach(stage)
        with pytest.raises(LookupError):
            stage.say(names.ACTION_LOGGED, action="drain", rung=0, message="s3cret")

        assert [] == logger.records.kept


class TestLibraryManners:
    def test_says_nothing_on_its_own(self, stage, capsys):
        """
        In a program that has not set up logging nothing is written to stderr, whatever happens.
        """
        LogExporter().attach(stage)
        logging.getLogger("selfheal").propagate = False
        try:
            stage.say(names.INCIDENT_OPENED, **fields_of(names.INCIDENT_OPENED))
        finally:
            logging.getLogger("selfheal").propagate = True

        assert "" == capsys.readouterr().err

    def test_one_null_handler_is_enough(self):
        """
        However many exporters there are, the logger has one NullHandler.
        """
        for _ in range(3):
            LogExporter()
        handlers = logging.getLogger("selfheal").handlers

        assert 1 == sum(isinstance(handler, logging.NullHandler) for handler in handlers)

    def test_a_healer_that_starts_again_is_written_once(self, stage):
        """
        What a healer does at its start it does once in its life.
        """
        attach(stage)
        attach(stage)

        assert 1 == len(stage.listeners)

    def test_keeps_no_healer_alive(self, make_stage, make_check):
        """
        A healer that nobody needs any more goes.
        """
        stage = make_stage(make_check())
        attach(stage)
        gone = weakref.ref(stage)
        del stage
        gc.collect()

        assert None is gone()


class JsonFormatter(logging.Formatter):
    """
    As everybody writes it once: the attributes of a record that other records do not have.
    """

    def format(self, record):
        """The record as one line."""
        return json.dumps({"message": record.getMessage(), **keys_of(record)})


def python_json_logger():
    """Its own formatter, unchanged."""
    return pytest.importorskip("pythonjsonlogger.json").JsonFormatter()


def structlog():
    """Its formatter for records of the standard library."""
    lib = pytest.importorskip("structlog")
    return lib.stdlib.ProcessorFormatter(
        foreign_pre_chain=[lib.stdlib.ExtraAdder()],
        processors=[
            lib.stdlib.ProcessorFormatter.remove_processors_meta,
            lib.processors.EventRenamer("message"),
            lib.processors.JSONRenderer(),
        ],
    )


def logfmt():
    """Its own formatter, read back into a dict."""
    lib = pytest.importorskip("logfmter")

    class Read(lib.Logfmter):
        def format(self, record):
            pairs = dict(pair.split("=", 1) for pair in super().format(record).split())
            pairs["message"] = pairs.pop("msg")
            pairs["selfheal_rung"] = int(pairs["selfheal_rung"])
            return json.dumps(pairs)

    return Read()


@pytest.mark.parametrize("formatter", [JsonFormatter, python_json_logger, structlog, logfmt])
def test_formatters_show_every_key_unchanged(stage, logger, formatter):
    """
    What others wrote for the standard library shows event and keys as they are.
    """
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(formatter())
    logger.addHandler(handler)
    LogExporter(logger).attach(stage)
    stage.say(names.HELD_APPLIED, action="drain", rung=0)
    shown = json.loads(out.getvalue())

    expected = {
        "message": "selfheal.held.applied",
        "selfheal_check": "orders",
        "selfheal_resource": "orders_db",
        "selfheal_action": "drain",
        "selfheal_rung": 0,
    }
    assert expected == {key: shown[key] for key in expected}
