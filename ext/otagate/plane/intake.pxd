# Frames to messages.

from libc.stdint cimport uint8_t

from otagate.plane.state cimport Connection, Core

# Takes whole and half frames from what a connection sent, and returns how many bytes: fewer than `size` if
# the rest is too short to be taken, or must wait (then BACKLOG is set). The payload is unmasked in place.
cdef size_t take_frames(Core* core, Connection* connection, uint8_t* data, size_t size) noexcept nogil
