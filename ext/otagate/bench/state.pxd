# The fleet's memory: a struct for each simulated device, one for the engine that drives them. Functions over
# them are in
#
#   histogram   durations, counted in buckets
#   common      lines, random numbers
#   scan        the fields of a JSON object, where they stand
#   download    chunks: order, xxh32, MD5 in lanes
#   sockets     connect, send, timers
#   behaviour   what a device does, message by message
#   intake      bytes of both links to messages and chunks
#   other       the protocols of other servers: HTTP and MQTT
#   fleet       turns, and the Python class
#
# in this order: each uses only those above it.

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from otagate.hashing.chunks cimport Xxh32
from otagate.hashing.lanes cimport Md5, Md5Job

cdef enum:
    TEXT_BYTES_MAX = 64 * 1024          # of a message or head that is gathered whole
    SLOT_BYTES = 256 * 1024             # one receive, and what was held before it
    SLOTS = 16                          # receives whose bytes may wait for the lanes
    JOBS_MAX = 1024
    OUT_BYTES = 64 * 1024               # written in answer to one receive
    DEPTH_MAX = 64                      # requests in flight of one device
    REPORT_BYTES = 128
    WHEEL_TICKS = 4096                  # of 4 ms: later timers are clamped to 16 s
    TICK_NS = 4000000
    HISTOGRAM_BUCKETS = 3072
    NO_DEVICE = -1

cdef enum Link:
    LINK_WEBSOCKET = 0
    LINK_TCP = 1
    LINK_HTTP = 2                       # keep-alive GETs
    LINK_MQTT = 3                       # 3.1.1

cdef enum Phase:
    PHASE_OUT = 0                       # no socket
    PHASE_CONNECTING = 1
    PHASE_HANDSHAKE = 2                 # HTTP's 101, MQTT's CONNACK, or HTTP's first answer
    PHASE_LOGIN = 3                     # waits for the challenge, then for the welcome
    PHASE_OPEN = 4

# What devices do once they are logged in.
cdef enum Work:
    WORK_IDLE = 0                       # acknowledge upgrades, nothing else
    WORK_REPORT = 1                     # progress reports, `depth` in flight
    WORK_TRANSITIONS = 2                # received, first progress, failure: each acknowledged once durable
    WORK_VERSIONS = 3                   # alternating version reports: each durable
    WORK_STREAM = 4                     # fetch the image again and again
    WORK_CAMPAIGN = 5                   # an upgrade from message to the new version
    WORK_REQUESTS = 6                   # other servers: requests, `depth` in flight

cdef enum Fault:
    FAULT_NONE = 0
    FAULT_DROP = 1                      # cuts the connection in the middle of a download, and resumes
    FAULT_CORRUPT = 2                   # sends a broken message, or one with a bad field
    FAULT_FAIL = 3                      # reports a failure
    FAULT_SILENT = 4                    # never acknowledges
    FAULT_SLOW = 5                      # reads slowly
    FAULT_STORM = 6                     # reconnects several times in a row
    FAULTS = 7

cdef enum Reason:                       # what a timer, or a place in the line, is for
    TIMER_NONE = 0
    TIMER_CONNECT = 1
    TIMER_READ = 2

cdef struct Histogram:
    uint64_t count
    uint64_t largest
    uint64_t total
    uint64_t buckets[HISTOGRAM_BUCKETS]

# A moment of which the first and the last are remembered (CLOCK_MONOTONIC, the same in all processes).
cdef struct Tally:
    uint64_t count
    uint64_t first_ns
    uint64_t last_ns

cdef struct Upgrade:
    uint8_t batch[65]
    uint8_t batch_size
    uint8_t firmware[65]
    uint8_t firmware_size
    uint8_t version[101]
    uint8_t version_size
    uint8_t md5[16]
    uint64_t attempt
    uint64_t size

cdef struct Download:
    uint64_t offset                     # bytes received so far
    uint64_t chunk_left                 # of the chunk being received
    uint32_t transfer
    uint32_t chunk_xxh32                # as its header says
    uint8_t ignored                     # the chunk is of another transfer
    uint8_t finished                    # all bytes are here; 2: and on the list of those to be judged
    uint64_t drop_at                    # FAULT_DROP: cut the connection here; 0: not (any more)
    Xxh32 xxh32
    Md5 md5
    Md5Job* last_job                    # not NULL: bytes of it wait for the lanes

cdef struct Device:
    int fd
    uint32_t number
    uint8_t link
    uint8_t phase
    uint8_t fault
    uint8_t step                        # of the work; see behaviour and other
    uint8_t works                       # an upgrade is under way
    uint8_t upgraded                    # it has burnt, and not logged in since
    uint8_t timer                       # a Reason, while a timer runs
    uint8_t storms                      # FAULT_STORM: reconnections left
    uint8_t writing                     # EPOLLOUT is asked for
    uint8_t waits                       # stands in the line of those that may send
    uint8_t toggled
    uint8_t counted                     # in `opening`
    int32_t timer_next
    uint64_t connect_ns                 # when this connection was begun
    uint8_t* held                       # received, not taken
    uint32_t held_size
    uint32_t held_capacity
    uint8_t* unsent
    uint32_t unsent_size
    uint32_t unsent_capacity
    uint64_t frame_left                 # payload bytes of a binary frame, or of an HTTP body, still to come
    uint8_t version[101]                # that it runs
    uint8_t version_size
    Upgrade upgrade
    Download download
    uint64_t sequence                   # of the oldest request in flight
    uint32_t in_flight
    uint64_t sent_ns[DEPTH_MAX]         # by sequence modulo DEPTH_MAX
    uint8_t report[REPORT_BYTES]        # the progress report, but for its percentage and id

cdef struct Counters:
    Tally opened                        # handshakes done
    Tally logged_in                     # welcomes
    Tally upgrades                      # upgrade messages read
    Tally answers                       # requests answered
    Tally downloads                     # images received whole, MD5 right
    Tally upgraded                      # welcomes with the new version
    Tally pushes                        # other servers: broadcast messages read
    uint64_t connects
    uint64_t connect_errors
    uint64_t lost                       # connections that ended without our doing
    uint64_t closes                     # close frames received
    uint64_t errors                     # error messages received
    uint64_t cancels
    uint64_t goodbyes
    uint64_t bytes_in
    uint64_t chunks
    uint64_t image_bytes
    uint64_t chunk_errors               # wrong order, length or xxh32
    uint64_t md5_errors
    uint64_t protocol_errors            # anything else that should not have come
    uint64_t faults[FAULTS]             # played
    uint64_t failures_reported

cdef struct Settings:
    uint32_t address                    # of the server; network order
    uint16_t port
    uint32_t source                     # first source address; host order
    uint32_t sources                    # how many of them
    uint8_t login                       # 0: a server that is no gateway
    uint8_t work
    uint8_t verify                      # hash what is downloaded
    uint8_t discard                     # payloads of chunks are dropped in the kernel
    uint8_t reconnect                   # connections that are lost come back
    uint8_t reports                     # a campaign: progress is reported besides `burning`
    uint32_t depth
    uint32_t opening_max                # connections being opened at a time
    uint32_t read_bytes                 # of one receive
    uint32_t retry_ms                   # a lost connection comes back after this, and as much again at most
    uint32_t reboot_ms                  # from burning to the next login
    uint32_t chunk_size
    uint64_t image_size                 # of other servers
    double rate                         # sends per second of those that stand in line; 0: no bound
    uint64_t seed
    uint8_t request[1024]               # other servers: what is sent
    uint32_t request_size

# Devices in a line, first come first served. A device stands in it at most once.
cdef struct Line:
    uint32_t* items
    uint32_t capacity
    uint32_t start
    uint32_t size

cdef struct Engine:
    int epoll
    Device* devices
    uint32_t count
    Settings settings
    Counters counters
    Histogram login_ns                  # connect to welcome
    Histogram answer_ns                 # request to answer
    Histogram upgrade_ns                # `mark_ns` to the upgrade message read
    uint64_t mark_ns
    uint64_t now_ns                     # at the last look
    Line to_connect
    Line to_send
    uint32_t opening
    double allowance                    # of `rate`
    uint64_t allowance_ns               # when it was last made up
    uint8_t running                     # requests are sent
    uint64_t chance                     # state of the random numbers
    int32_t wheel[WHEEL_TICKS]          # first device of each tick
    uint64_t tick
    uint32_t timers
    uint8_t* slots
    uint32_t slot
    Md5Job jobs[JOBS_MAX]
    Md5Job* heads[JOBS_MAX]
    Device* owners[JOBS_MAX]            # of the heads
    uint32_t job_count
    uint32_t head_count
    Line finished                       # downloads to be judged
    uint8_t out[OUT_BYTES]
    uint32_t out_size
    uint8_t last_error[256]             # the last error message received, or what broke
    uint32_t last_error_size
    uint8_t product[65]
    uint32_t product_size
    uint8_t prefix[65]                  # identifiers are prefix, number
    uint32_t prefix_size
    uint8_t version[101]
    uint32_t version_size
