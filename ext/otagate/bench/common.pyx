"""Lines, random numbers and the note of what went wrong: what every part of the fleet uses."""

from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, strlen

from otagate.bench.state cimport Engine, Line


cdef uint64_t mixed(uint64_t seed, uint64_t number) noexcept nogil:
    """SplitMix64: the same for the same seed and number, wherever it is asked."""
    cdef uint64_t z = seed + (number + 1) * <uint64_t>0x9E3779B97F4A7C15
    z = (z ^ (z >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * <uint64_t>0x94D049BB133111EB
    return z ^ (z >> 31)


cdef uint64_t random_number(Engine* engine) noexcept nogil:
    engine.chance += 1
    return mixed(engine.settings.seed, engine.chance)


# -- lines -----------------------------------------------------------------------------------------

cdef void line_push(Line* line, uint32_t item) noexcept nogil:
    if line.size < line.capacity:
        line.items[(line.start + line.size) % line.capacity] = item
        line.size += 1


cdef bint line_pop(Line* line, uint32_t* item) noexcept nogil:
    if line.size == 0:
        return False
    item[0] = line.items[line.start]
    line.start = (line.start + 1) % line.capacity
    line.size -= 1
    return True


cdef void protocol_error(Engine* engine, const char* words) noexcept nogil:
    engine.counters.protocol_errors += 1
    engine.last_error_size = <uint32_t>min(strlen(words), sizeof(engine.last_error))
    memcpy(engine.last_error, words, engine.last_error_size)
