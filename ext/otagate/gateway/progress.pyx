"""Progress reports of running attempts: a drain's worth of them without Python for each.

Theory. Most of what devices say is that they are a little further. While a row is `upgrading`, nothing of its
device waits for a commit and its batch is in progress, such a report of the running attempt can do but one
thing: it sets stage and percentage in memory, and is acknowledged (upgrade.states, `_further_progress`). So a
run of them, which one connection sent one behind the other, is acknowledged each, and only the last is put to
the rules, by `Upgrades.decide`, as ever. What is not exactly so is left to `Reports.receive`, in its order.

Invariant: rows, what of them is to be written, and every answer are the same as if `Reports.receive` had been
given each report by itself (tests/gateway/test_progress.py holds one against the other). Only a percentage that
goes away and comes back within a run leaves no trace: there is nothing to write.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Contains, PyDict_GetItem
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from otagate.gateway.tables cimport Presence
from otagate.wire.progress cimport (
    ACKNOWLEDGEMENT_BYTES_MAX, ProgressReport, read_report, write_acknowledgement,
)

from otagate import plane
from otagate.upgrade.events import Progress
from otagate.upgrade.model import Stage, State

cdef int MESSAGE = plane.MESSAGE
cdef object SEND = plane.SEND
cdef object UPGRADING = State.UPGRADING
cdef tuple STAGES = tuple(Stage)
assert [stage.label for stage in STAGES] == ["", "downloading", "verifying", "burning"]


cdef class ProgressReports:
    """Takes the reports that it can out of a drain's events.

    `rows`, `pending`, `endings` and `batches` are those of `Upgrades`, by device and by batch: looked at,
    never changed here.
    """

    cdef Presence presence
    cdef object outbox
    cdef object decide
    cdef dict rows
    cdef dict pending
    cdef dict endings
    cdef dict batches

    # the run that is being taken
    cdef uint64_t conn                  # 0: none
    cdef uint64_t batch
    cdef uint64_t attempt
    cdef uint8_t stage
    cdef uint8_t percent
    cdef object upgrade

    def __init__(
        self, Presence presence, outbox, decide, dict rows, dict pending, dict endings, dict batches
    ):
        self.presence = presence
        self.outbox = outbox
        self.decide = decide
        self.rows = rows
        self.pending = pending
        self.endings = endings
        self.batches = batches
        self.conn = 0

    def take(self, list events, Py_ssize_t at, dict later):
        """Handle events from `at` on, up to the first that is nothing for here; returns its place.

        `later`: devices that have a message waiting; what they say now has to wait behind it.
        """
        cdef ProgressReport report
        cdef tuple event
        cdef bytes payload
        cdef uint64_t conn
        cdef list commands = self.outbox.commands
        while at < len(events):
            event = events[at]
            if <int>event[0] != MESSAGE:
                break
            payload = event[3]
            if not read_report(<const uint8_t*>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload), &report):
                break
            conn = event[1]
            if conn != self.conn:
                self.end_run()
                if not self.begin_run(conn, event[2], later):
                    break
            if report.batch != self.batch or report.attempt != self.attempt:
                break
            self.stage = report.stage
            self.percent = report.percent
            if report.identity != NULL:
                commands.append((SEND, event[1], acknowledgement(&report)))
            at += 1
        self.end_run()
        return at

    cdef bint begin_run(self, uint64_t conn, object device, dict later) except -1:
        cdef PyObject* found
        if self.endings or self.presence.find(device) != conn:
            return False
        if PyDict_Contains(self.pending, device) or PyDict_Contains(later, device):
            return False
        found = PyDict_GetItem(self.rows, device)
        if found == NULL:
            return False
        upgrade = <object>found
        row = upgrade.row
        if row.state is not UPGRADING:
            return False
        batch = self.batches.get(upgrade.batch)
        if batch is None or batch.ended:
            return False
        self.conn = conn
        self.upgrade = upgrade
        self.batch = upgrade.batch
        self.attempt = row.attempt
        self.stage = 0
        return True

    cdef int end_run(self) except -1:
        """Put the last report of the run to the rules."""
        if self.conn == 0:
            return 0
        self.conn = 0
        if self.stage:
            self.decide(self.upgrade, Progress(self.attempt, STAGES[self.stage], self.percent))
            assert self.upgrade.device not in self.pending, "a percentage waits for no commit"
        self.upgrade = None
        return 0


cdef bytes acknowledgement(const ProgressReport* report):
    cdef uint8_t out[ACKNOWLEDGEMENT_BYTES_MAX]
    cdef size_t size = write_acknowledgement(out, report.identity, report.identity_size)
    return PyBytes_FromStringAndSize(<const char*>out, size)
