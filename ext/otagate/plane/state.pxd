# The data plane's memory: every struct, who owns it and for how long. Functions over them are in
#
#   table       slots of connections, numbers, the ready list
#   wheel       the clock, and the wheel of deadlines
#   events      what Python will be told
#   identity    what a client certificate says
#   hosts       which certificate for which name
#   context     certificates, keys, authorities and tickets: the SSL_CTX of new connections
#   flight      how long the messages of a handshake may be
#   tls         receive, send and sendfile through OpenSSL
#   transport   the only calls that move bytes of a link
#   output      queues of frames to be written
#   transfer    images, and downloads by sendfile
#   listener    listening sockets, and their rest
#   strangers   connections that have not logged in, by address
#   connection  the phases of a connection, its writes, its end
#   revocation  ends connections whose certificate was revoked
#   proxy       PROXY headers, and who may send them
#   opening     first bytes: which link, handshake, challenge
#   intake      frames to messages
#   core        turns: poll, accept, read, write
#   commands    what Python orders
#   face        the Python class
#
# in this order: each uses only those above it.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from otagate.plane.openssl cimport BIO, BIO_METHOD, SSL, SSL_CTX
from otagate.wire.frames cimport FrameHeader

cdef enum:
    SLOT_BITS = 20                      # a connection's number is slot | generation << SLOT_BITS
    SLOT_MASK = 0xFFFFF                 # slot 0 is never used: a zero link means "none"

    NONCE_BYTES = 16
    NONCE_POOL_BYTES = 256              # getrandom(2) gives so many whole, whatever signals come
    ARENA_MESSAGE_BYTES_MAX = 4096      # larger messages are gathered in memory of their own
    READ_BYTES_STRANGER = 4096          # at most this much of a stranger is ever held
    READ_BYTES_SESSION = 16384
    READ_BYTES_ECHO = 65536
    HTTP_HEAD_BYTES_MAX = 65536         # of what may be asked for
    SCRATCH_BYTES = READ_BYTES_ECHO + HTTP_HEAD_BYTES_MAX
    POLL_EVENTS_MAX = 512
    LISTENERS_MAX = 8
    STRANGER_BUCKETS = 65536
    TICK_BITS = 8                       # a tick of the wheel is 256 ms
    WHEEL_BUCKETS = 1024                # once round in 262 s
    CHUNK_SIZES = 11                    # powers of two, 2**CHUNK_BITS_MIN = 256 B to 256 KiB
    CHUNK_BITS_MIN = 8
    CHUNK_PREFIX_BYTES_MAX = 26         # frame header <= 10, chunk header 16
    RECORD_BYTES_MAX = 16384            # of plaintext in a TLS record (RFC 8446 section 5.1)
    PLAIN_BYTES = 4 * RECORD_BYTES_MAX  # what is read of a file at once
    SEALING_BYTES = 98304               # the longest flight of a handshake, or some records, sealed
    CERTIFICATES_MAX = 65               # the first, and more for other names
    TICKET_KEYS_MAX = 3
    TICKET_KEY_BYTES = 80               # name 16, AES-256 key 32, HMAC key 32
    NETWORKS_MAX = 64

cdef enum Link:
    LINK_UNKNOWN = 0
    LINK_WEBSOCKET = 1
    LINK_TCP = 2
    LINKS = 3

cdef enum Phase:
    PHASE_FREE = 0                      # no connection in this slot
    PHASE_OPENING = 1                   # first byte, preface or HTTP head
    PHASE_LOGIN = 2                     # framed; Python has not admitted it
    PHASE_OPEN = 3                      # admitted (echo: at once)
    PHASE_CLOSING = 4                   # nothing is read any more; what is queued is written, then FIN
    PHASE_LINGERING = 5                 # our FIN is sent; bytes are thrown away until the peer's

cdef enum Flag:
    READABLE = 1                        # bytes, or an end, may wait in the kernel
    WRITABLE = 2                        # the last write was taken whole
    HANGUP = 4                          # the peer has sent its FIN: read on until the end
    BROKEN = 8                          # the kernel reports an error, or both directions shut
    QUEUED = 16                         # on the ready list (outlives the connection: see table)
    TOUCHED = 32                        # on the list of those to be written to (outlives it, too)
    HELD = 64                           # a HELLO waits for its answer: read nothing
    BACKLOG = 128                       # `input` holds whole frames: take them before reading more
    ADMITTED = 256                      # Python will be told of its end
    DUE = 512                           # the wheel says that a deadline passed
    FINISHED = 2048                     # the peer's close frame is here: after our answer, close
    SHAKING = 4096                      # TLS was begun: its turns are those of handshakes

# What a listener asks of those who connect.
cdef enum Security:
    TLS_OFF = 0
    TLS_OPTIONAL = 1
    TLS_REQUIRED = 2

# What a call that moves bytes returns, if it is not their number.
cdef enum Outcome:
    TRANSPORT_AGAIN = -1                # the kernel will say when to go on
    TRANSPORT_LOST = -2                 # the connection is gone
    TRANSPORT_UNREADABLE = -3           # the file is: truncated, or an error of its disk
    TRANSPORT_REFUSED = -4              # the peer's TLS is broken; an alert says so

# Why a connection ended: each is counted.
cdef enum Cause:
    CAUSE_NONE = 0
    CAUSE_PEER = 1                      # its close frame
    CAUSE_LOST = 2                      # its FIN without one, RST, any error of the socket
    CAUSE_COMMANDED = 3                 # CLOSE from Python
    CAUSE_BROKEN = 4                    # framing, UTF-8, size, binary
    CAUSE_SILENT = 5
    CAUSE_STALLED = 6                   # does not read
    CAUSE_OVERFLOWED = 7                # more queued than the bound
    CAUSE_HANDSHAKE_TIMEOUT = 8
    CAUSE_HELLO_TIMEOUT = 9
    CAUSE_REFUSED_HEAD = 10             # an HTTP answer other than 101
    CAUSE_REFUSED_TLS = 11
    CAUSE_REFUSED_PROXY = 12
    CAUSE_REFUSED_BYTE = 13             # any other first byte, a wrong preface
    CAUSE_IMAGE = 14                    # the image under a transfer became unreadable
    CAUSE_MEMORY = 15
    CAUSE_SHUTDOWN = 16                 # the plane was closed
    CAUSE_TLS = 17                      # the handshake failed
    CAUSE_REFUSED_PLAIN = 18            # no TLS where TLS is required
    CAUSE_REFUSED_STRANGER = 19         # too many of the address that its proxy named
    CAUSE_REVOKED = 20                  # its certificate was
    CAUSES = 21

# Where a certificate carries the name of its device.
cdef enum NameKind:
    NAME_CN = 0                         # subject, common name
    NAME_URI = 1                        # subject alternative names
    NAME_DNS = 2

# What Python is told. The numbers are Python's too (otagate.plane.HELLO …).
cdef enum EventKind:
    EVENT_HELLO = 1
    EVENT_MESSAGE = 2
    EVENT_BINARY = 3
    EVENT_CLOSED = 4
    EVENT_STARTED = 5
    EVENT_ENDED = 6

cdef enum EndReason:
    END_NOT = 0
    END_DONE = 1
    END_STOPPED = 2
    END_REPLACED = 3
    END_FAILED = 4

# Codes in CLOSED. Those above 4999 never stand in a frame.
cdef enum CloseCode:
    CODE_NORMAL = 1000
    CODE_BAD_FRAME = 1002
    CODE_BINARY = 1003
    CODE_NONE = 1005                    # a close frame without a code
    CODE_LOST = 1006
    CODE_BAD_TEXT = 1007
    CODE_TOO_LARGE = 1009
    CODE_UNAUTHORIZED = 4001
    CODE_SILENT = 4003
    CODE_STALLED = 5001
    CODE_OVERFLOWED = 5002
    CODE_IMAGE = 5003


# One queue entry: whole frames, contiguous. Standard ones are pooled, larger ones are not.
cdef struct Block:
    Block* next                         # output: the queue is a ring, the tail's next is the head
    uint32_t start                      # first byte not yet written
    uint32_t stop
    uint32_t capacity                   # bytes that follow this struct


# What is half received. Exists only while something is: an idle connection has none.
cdef struct Input:
    uint8_t* held                       # bytes received and not taken: part of a head, of a frame's header or
    uint32_t held_size                  # of a control frame; or what a turn's bound, or a HELLO, left over
    uint8_t opcode                      # of the message being gathered; 0: none
    uint8_t in_frame                    # 1: `frame` is being read
    uint32_t utf8                       # state of the text so far; 0, UTF8_ACCEPT, between messages
    uint64_t message_size
    uint64_t message_capacity
    uint8_t* message                    # payload so far, unmasked; handed over to its event when whole
    FrameHeader frame
    uint64_t frame_left                 # payload bytes of `frame` still to come


cdef struct Image:
    Image* next
    uint64_t number                     # Python's
    uint64_t size
    uint32_t transfers                  # that name it, running or waiting
    int fd                              # -1: could not be opened, or is shorter than said
    bint dropped                        # no new transfers; freed with the last one
    uint8_t* digests[CHUNK_SIZES]       # u32 big-endian each, as on the wire; NULL: not given


# What Python asked for in one STREAM.
cdef struct Job:
    Image* image
    uint64_t offset                     # start of the next chunk
    uint64_t end
    uint32_t transfer                   # the device's number for it
    uint32_t chunk_size
    uint32_t head_xxh32                 # of an irregular first chunk
    uint32_t tail_xxh32                 # of an irregular last one
    bint started                        # its first byte has left


# A connection's place among the downloads. A replacement inherits the place of what it replaces.
cdef struct Transfer:
    Transfer* previous                  # in the line of those that wait
    Transfer* following
    Job job
    Job successor                       # takes over at the next chunk boundary, if `replaced`
    uint64_t position                   # next byte of the file to send
    uint64_t chunk_stop                 # end of this chunk
    uint32_t slot
    uint32_t stopped                    # when it was to end; counts only while `ending`
    uint8_t running                     # 0: waits its turn
    uint8_t replaced
    uint8_t ending                      # an EndReason: ends so at the next chunk boundary
    uint8_t prefix_size                 # 0: between chunks
    uint8_t prefix_sent                 # > 0: the chunk has begun and must be finished
    uint8_t prefix[CHUNK_PREFIX_BYTES_MAX]


# Until it is admitted a connection is known by its nonce, then by the number that Python gave it.
cdef union Identity:
    uint64_t device
    uint8_t nonce[NONCE_BYTES]


# Where in the plain records of its handshake a client is.
cdef struct Flight:
    uint32_t message_left               # bytes of the message still to come; while its header comes, what came
    uint16_t record_left                # the same of the record
    uint8_t message_header              # bytes of the message's header that have come
    uint8_t record_header
    uint8_t record_type


# What lies below a link: TLS, and a proxy that says for whom it speaks. Most plain connections have none.
cdef struct Below:
    SSL* ssl                            # NULL: no TLS, or no more: our close_notify has left
    uint8_t* sealed                     # records that the kernel has not taken; NULL: none
    uint32_t sealed_start
    uint32_t sealed_stop
    uint64_t mark                       # of its certificate, to be found when that is revoked; 0: it has none
    Flight flight                       # until the handshake is done
    uint8_t* certificate                # what Python is told of it; freed at ADMIT
    uint32_t certificate_size
    uint16_t port                       # of the peer, as the proxy says; host's order
    uint8_t family                      # AF_INET, AF_INET6; 0: no proxy said any
    uint8_t secured                     # there is TLS, or was
    uint8_t closing                     # our close_notify is made
    uint8_t failed                      # OpenSSL gave up: nothing can be said any more
    uint8_t named                       # it asked for a name that a certificate of ours has
    uint8_t address[16]


# Times are milliseconds of the plane's clock, modulo 2**32: only differences of them mean anything.
cdef struct Connection:
    int fd
    uint32_t generation                 # >= 1; grows with each use of the slot
    uint32_t ready_next                 # the next slot on the ready list, or on the list of free slots
    uint32_t touched_next               # the next one to be written to at the end of this apply
    uint32_t wheel_previous             # neighbours in a bucket of the wheel
    uint32_t wheel_next
    uint32_t wheel_tick                 # 0: not on the wheel
    uint32_t since                      # when the phase began
    uint32_t seen                       # when the last frame arrived
    uint32_t progress                   # when output last moved; counts only while it waits
    uint32_t unacknowledged             # bytes in the kernel's send queue at `progress`
    uint32_t output_size                # bytes queued
    uint16_t flags
    uint16_t code                       # for CLOSED
    uint16_t stranger                   # its bucket; 0: it has logged in, or is not counted
    uint8_t phase
    uint8_t link
    uint8_t cause
    uint8_t listener                    # its index: where it came in
    Identity identity
    Block* output                       # the tail of the ring; NULL: nothing queued
    Input* input
    Transfer* transfer
    Below* below


cdef struct Event:
    uint64_t connection                 # its number
    Identity identity
    uint8_t* payload                    # in the arena, or `owned`: freed once Python has its copy
    uint64_t size
    uint32_t transfer
    uint16_t kind
    uint16_t code                       # of CLOSED; an EndReason of ENDED
    bint owned


cdef struct Listener:
    int fd                              # -1: none
    uint8_t security                    # one of Security; stays when the listener goes


# Slots in order of their turn, linked by ready_next.
cdef struct Line:
    uint32_t first
    uint32_t last
    uint32_t count


cdef struct Network:
    uint8_t address[16]                 # IPv4 as ::ffff:a.b.c.d
    uint8_t bits


# What all TLS connections share. Its buffers are used within one call.
cdef struct Tls:
    SSL_CTX* context                    # of new connections; NULL: none yet
    BIO_METHOD* method
    BIO* bio                            # of all connections
    uint8_t* plain                      # PLAIN_BYTES: of a file, or gathered from pieces for one record
    uint8_t* sealing                    # SEALING_BYTES: records made and not yet given to the kernel
    uint32_t sealing_size
    Connection* current                 # whose call it is
    const uint8_t* given                # bytes received before OpenSSL was asked
    size_t given_size
    size_t allowed                      # bytes that this call may yet receive
    uint32_t oddities                   # in this call: what only a flood has many of
    bint drained                        # the kernel has no more for now
    bint ended                          # … and never will
    bint refused                        # for a message that is too long
    int name_kind                       # one of NameKind
    uint32_t ticket_keys_count          # the first one seals, all open
    uint8_t ticket_keys[TICKET_KEYS_MAX][TICKET_KEY_BYTES]


cdef struct Bounds:
    uint32_t connections_max
    uint32_t transfers_max
    uint32_t heartbeat_timeout_ms       # 0: never silent
    uint32_t handshake_timeout_ms
    uint32_t hello_timeout_ms
    uint32_t write_stall_timeout_ms
    uint32_t close_timeout_ms
    uint32_t hello_bytes_max
    uint64_t message_bytes_max
    uint64_t output_bytes_max
    uint32_t http_head_bytes_max
    uint32_t turn_messages_max
    uint32_t turn_sendfile_bytes_max
    uint32_t events_max
    uint16_t strangers_per_address_max
    uint32_t handshakes_max
    int64_t stream_ns
    int sndbuf_bytes                    # of one download
    int streaming_sndbuf_bytes          # of all of them
    bint echo


cdef struct Counters:
    uint64_t accepted
    uint64_t refused_strangers          # too many of their address: most are closed as they come
    uint64_t accept_failures            # EMFILE and its like: the listeners went to rest
    uint64_t opened[LINKS]              # handshakes completed
    uint64_t live[LINKS]                # connections now, after their handshake
    uint64_t ended[CAUSES]
    uint64_t bytes_in
    uint64_t bytes_out
    uint64_t bytes_streamed             # of files, within bytes_out
    uint64_t messages_in
    uint64_t messages_out
    uint64_t pings
    uint64_t transfers_started
    uint64_t transfers_ended
    uint64_t handshakes                 # of TLS, completed, resumptions too
    uint64_t resumptions
    uint64_t live_tls


cdef struct Core:
    Bounds bounds
    Counters counters
    int epoll
    int timer
    int alarm                           # a timer too: when Python wants to be woken

    Connection* connections             # mapped once, so that it never moves: `connections_max` + 1 slots
    uint32_t count
    uint32_t slots_used                 # slots above were never used: their pages do not exist yet
    uint32_t free_slot                  # the most recently freed
    Line ready
    Line shaking                        # those in a handshake: few of them get a turn in a drain
    Line streaming                      # those that have but a file to send: a slice of each round is theirs
    uint32_t handshakes_left            # turns of this drain
    uint32_t touched_first
    uint32_t touched_last

    int64_t now_ns                      # CLOCK_BOOTTIME, read before each unit of work
    int64_t clock_offset_ms             # a test's
    uint64_t now_ms
    uint32_t tick                       # the wheel has been turned up to here
    uint32_t* buckets                   # first slot of each
    bint timer_armed
    bint timer_woken                    # armed to fire at once

    Event* events                       # a vector: drain adds at most events_max, apply any number
    uint32_t events_size
    uint32_t events_capacity
    uint8_t* arena                      # payloads of the messages of one drain
    uint64_t arena_used
    uint64_t arena_size

    uint8_t* scratch                    # where bytes are received and taken from, within one turn
    Block* free_blocks
    uint32_t free_blocks_count
    uint8_t* nonces                     # random bytes not yet given away
    uint32_t nonces_used

    Image* images
    Transfer* waiting_first
    Transfer* waiting_last
    uint32_t waiting
    uint32_t running

    uint16_t* strangers                 # counts, by a hash of the address
    uint64_t strangers_key
    Tls tls
    Network networks[NETWORKS_MAX]      # of proxies that may send a PROXY header
    uint32_t networks_count

    Listener listeners[LISTENERS_MAX]
    bint resting                        # the listeners are out of epoll

    uint32_t write_bytes_max            # 0: no limit. A test's: every write moves at most so much
