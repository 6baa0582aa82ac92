"""A whole gateway above a simulated plane, with devices, operators and mishaps, on virtual time.

Theory. A seed draws a plan (plan.py); everything that happens afterwards, the order in which Trio runs its
tasks included, follows from it, so a seed replays to the same trace. The world (world.py) keeps the time: a
heap of things to come, and the gateway's own deadlines. Devices are the SDK's agents behind bad links
(devices.py, plane.py), with habits that the protocol allows and some that it does not. The gateway is the
real one; only its plane, its store's disk (store.py) and its clocks are simulated. It is stopped, or killed
at any moment and started again on what the store had.

What must hold is judged beside it and independently: the ledger (ledger.py) follows every decision and
every commit, the judge (judge.py) every message that leaves, and what must have happened by now. That the
judges bite is shown by planted faults (faults.py), each of which they find.

A stretch in which nothing happened for a whole sweep is leapt over, up to the next moment at which
something falls due: a sweep that changed nothing would change nothing again.
"""
