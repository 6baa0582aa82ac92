"""MD5 of many streams at once: one core does the hashing of a whole fleet of simulated devices.

Theory. A processor runs one stream's MD5 at the latency of its chain of steps, and eight or sixteen in the
lanes of its vectors at little more. Lanes need equally many blocks, streams are ragged; so a run of the
lanes is as long as the shortest of its streams has blocks left, then that lane takes the next stream. What is no whole
block is kept in the stream. When too few streams are left to fill lanes they are done one by one.

Invariant: a stream in a lane has its state there and nowhere else; `attach` brings it in, `detach` out.

Source: RFC 1321. Oracle of the tests: hashlib.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

cdef extern from "otagate/hashing/md5_blocks.h" nogil:
    enum:
        MD5_LANES
    ctypedef struct Md5Variant:
        const char* name
        int lanes
        int alone
        void (*run)(uint32_t (*state)[MD5_LANES], const uint8_t** data, size_t blocks) noexcept nogil
    const Md5Variant* md5_variant(int number)
    void md5_blocks(uint32_t* state, const uint8_t* data, size_t blocks)

cdef enum:
    BLOCK_BYTES = 64

cdef struct Lanes:
    uint32_t state[4][MD5_LANES]
    Md5Job* jobs[MD5_LANES]             # NULL: the lane is free
    const uint8_t* data[MD5_LANES]
    size_t blocks[MD5_LANES]            # left of its job

cdef const Md5Variant* best = md5_variant(0)


cdef void md5_begin(Md5* md5) noexcept nogil:
    md5.state[0] = 0x67452301
    md5.state[1] = 0xEFCDAB89
    md5.state[2] = 0x98BADCFE
    md5.state[3] = 0x10325476
    md5.size = 0


cdef bint fill_pending(Md5* md5, const uint8_t** data, size_t* size) noexcept nogil:
    """Completes a block that was begun; False if the bytes do not suffice."""
    cdef size_t held = md5.size % BLOCK_BYTES
    cdef size_t piece
    if held == 0:
        return True
    piece = min(size[0], BLOCK_BYTES - held)
    memcpy(md5.pending + held, data[0], piece)
    md5.size += piece
    data[0] += piece
    size[0] -= piece
    if held + piece < BLOCK_BYTES:
        return False
    md5_blocks(md5.state, md5.pending, 1)
    return True


cdef void keep_rest(Md5* md5, const uint8_t* data, size_t size) noexcept nogil:
    """Fewer bytes than a block, at the start of one."""
    memcpy(md5.pending, data, size)
    md5.size += size


cdef Md5Job* attach(Lanes* lanes, int lane, Md5Job* job) noexcept nogil:
    """Begins the first job of a chain that has whole blocks; what comes before it is done. NULL: none has."""
    cdef const uint8_t* data
    cdef size_t size
    cdef int i
    while job != NULL:
        data = job.data
        size = job.size
        if fill_pending(job.md5, &data, &size):
            if size >= BLOCK_BYTES:
                break
            keep_rest(job.md5, data, size)
        job = job.next
    if job != NULL:
        for i in range(4):
            lanes.state[i][lane] = job.md5.state[i]
        lanes.data[lane] = data
        lanes.blocks[lane] = size // BLOCK_BYTES
        job.md5.size += size - size % BLOCK_BYTES
    lanes.jobs[lane] = job
    return job


cdef Md5Job* detach(Lanes* lanes, int lane) noexcept nogil:
    """All blocks of the lane's job are done: its state goes home, its rest is kept. The next of the chain."""
    cdef Md5Job* job = lanes.jobs[lane]
    cdef int i
    for i in range(4):
        job.md5.state[i] = lanes.state[i][lane]
    keep_rest(job.md5, lanes.data[lane], job.data + job.size - lanes.data[lane])
    return job.next


cdef void finish_alone(Lanes* lanes, int lane) noexcept nogil:
    """The rest of a lane's chain without lanes."""
    cdef Md5Job* job = lanes.jobs[lane]
    cdef uint32_t state[4]
    cdef int i
    while job != NULL:
        for i in range(4):
            state[i] = lanes.state[i][lane]
        md5_blocks(state, lanes.data[lane], lanes.blocks[lane])
        lanes.data[lane] += lanes.blocks[lane] * BLOCK_BYTES
        for i in range(4):
            lanes.state[i][lane] = state[i]
        job = attach(lanes, lane, detach(lanes, lane))


cdef void run_lanes(Lanes* lanes, const Md5Variant* variant, int spare) noexcept nogil:
    """As many blocks as all lanes have; a free lane goes along on the bytes of lane `spare`, for nothing."""
    cdef size_t blocks = lanes.blocks[spare]
    cdef int lane
    for lane in range(variant.lanes):
        if lanes.jobs[lane] == NULL:
            lanes.data[lane] = lanes.data[spare]
        elif lanes.blocks[lane] < blocks:
            blocks = lanes.blocks[lane]
    variant.run(lanes.state, lanes.data, blocks)
    for lane in range(variant.lanes):
        lanes.data[lane] += blocks * BLOCK_BYTES
        lanes.blocks[lane] -= blocks
        if lanes.jobs[lane] != NULL and lanes.blocks[lane] == 0:
            attach(lanes, lane, detach(lanes, lane))


cdef void feed_many(Md5Job** jobs, size_t count, const Md5Variant* variant) noexcept nogil:
    cdef Lanes lanes
    cdef size_t taken = 0
    cdef int active, busy, lane
    memset(&lanes, 0, sizeof(lanes))
    while True:
        active = 0
        busy = 0
        for lane in range(variant.lanes):
            while lanes.jobs[lane] == NULL and taken < count:
                attach(&lanes, lane, jobs[taken])
                taken += 1
            if lanes.jobs[lane] != NULL:
                active += 1
                busy = lane
        if active == 0:
            return
        if active > variant.alone:
            run_lanes(&lanes, variant, busy)
            continue
        for lane in range(variant.lanes):
            if lanes.jobs[lane] != NULL:
                finish_alone(&lanes, lane)


cdef void md5_feed_many(Md5Job** jobs, size_t count) noexcept nogil:
    feed_many(jobs, count, best)


cdef void md5_digest(const Md5* md5, uint8_t* out) noexcept nogil:
    cdef uint8_t last[2 * BLOCK_BYTES]
    cdef uint32_t state[4]
    cdef uint64_t bits = md5.size << 3
    cdef size_t held = md5.size % BLOCK_BYTES
    cdef size_t blocks = 1 if held < BLOCK_BYTES - 8 else 2
    memset(last, 0, sizeof(last))
    memcpy(last, md5.pending, held)
    last[held] = 0x80
    memcpy(last + blocks * BLOCK_BYTES - 8, &bits, 8)
    memcpy(state, md5.state, sizeof(state))
    md5_blocks(state, last, blocks)
    memcpy(out, state, sizeof(state))


# -- Python face -----------------------------------------------------------------------------------

def variants():
    """Names of what this processor can run, the fastest first."""
    names = []
    while md5_variant(<int>len(names)) != NULL:
        names.append(md5_variant(<int>len(names)).name.decode())
    return names


def md5_of_streams(streams, rounds=None, variant=None):
    """The MD5 of each of several streams of bytes, 16 bytes each, computed together.

    rounds: cuts every stream into so many pieces, fed one after the other, two of a round chained: as bytes
    arrive. variant: a name of `variants()`. Raises ValueError for any other.
    """
    cdef const Md5Variant* chosen = best
    cdef Py_ssize_t count = len(streams)
    cdef Py_ssize_t i, size, start, stop, middle
    cdef int number = 0, round_, round_count = 1 if rounds is None else rounds
    cdef Md5* all_of_them
    cdef Md5Job* pieces
    cdef Md5Job** jobs
    if variant is not None:
        names = variants()
        if variant not in names:
            raise ValueError(f"variant is one of {names}")
        chosen = md5_variant(names.index(variant))
    held = [bytes(stream) for stream in streams]
    all_of_them = <Md5*>calloc(count + 1, sizeof(Md5))
    pieces = <Md5Job*>calloc(2 * count + 1, sizeof(Md5Job))
    jobs = <Md5Job**>calloc(count + 1, sizeof(Md5Job*))
    try:
        if all_of_them == NULL or pieces == NULL or jobs == NULL:
            raise MemoryError
        for i in range(count):
            md5_begin(&all_of_them[i])
        for round_ in range(round_count):
            for i in range(count):
                size = PyBytes_GET_SIZE(held[i])
                start = size * round_ // round_count
                stop = size * (round_ + 1) // round_count
                middle = start + (stop - start) * (i % 3) // 2
                jobs[i] = &pieces[2 * i]
                pieces[2 * i].md5 = pieces[2 * i + 1].md5 = &all_of_them[i]
                pieces[2 * i].data = <const uint8_t*>PyBytes_AS_STRING(held[i]) + start
                pieces[2 * i].size = middle - start
                pieces[2 * i].next = &pieces[2 * i + 1]
                pieces[2 * i + 1].data = pieces[2 * i].data + (middle - start)
                pieces[2 * i + 1].size = stop - middle
            with nogil:
                feed_many(jobs, count, chosen)
        digests = []
        for i in range(count):
            digest = PyBytes_FromStringAndSize(NULL, 16)
            md5_digest(&all_of_them[i], <uint8_t*>PyBytes_AS_STRING(digest))
            digests.append(digest)
        return digests
    finally:
        free(all_of_them)
        free(pieces)
        free(jobs)
