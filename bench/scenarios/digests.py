"""What an upload's digests cost: the gateway's hasher beside OpenSSL's digests, one after the other."""

import json
import subprocess

from ..machine import PYTHON
from ..measure import Bench, Result
from ..processes import BenchError

MIB = 2**20
# A process of its own, so that it can be pinned: rates in MB/s, alternately, of both ways.
PROGRAM = """
import hashlib, json, os, sys, time
from otagate.hashing.images import ImageHasher
core, size, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if core:
    os.sched_setaffinity(0, {int(core)})
data = os.urandom(1 << 20)
def ours():
    hasher = ImageHasher()
    for _ in range(size >> 20):
        hasher.update(data)
    return hasher.md5, hasher.sha256
def theirs():
    digests = []
    for make in (hashlib.md5, hashlib.sha256):
        digest = make()
        for _ in range(size >> 20):
            digest.update(data)
        digests.append(digest.hexdigest())
    return tuple(digests)
def seconds(work):
    before = time.thread_time()
    found.add(work())
    return time.thread_time() - before
found = set()
pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
assert len(found) == 1, "digests differ"
print(json.dumps(pairs))
"""


def hashing(bench: Bench, *, size: int = 256 * MIB, rounds: int = 5) -> list[Result]:
    """Processor time for MD5, SHA-256 and the digests of all chunks of an image, in one pass; and for
    OpenSSL's MD5 and SHA-256 alone, one after the other."""
    bench.say(f"hashing {size // MIB} MiB, {rounds} times")
    core = "" if bench.server_core is None else str(bench.server_core)
    folder = bench.subfolder()
    command = [PYTHON, "-P", "-c", PROGRAM, core, str(size), str(rounds)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchError(f"hashing: {done.stderr.strip()[-300:]}")
    results = []
    for mine, theirs in json.loads(done.stdout):
        result = Result("hashing", "gateway", {"image": f"{size // MIB} MiB"})
        result.figure("rate", size / mine / 1e6, "MB/CPU-s")
        result.figure("openssl", size / theirs / 1e6, "MB/CPU-s")
        result.figure("time_to_openssl", mine / theirs, "×")
        results.append(result)
    return results
