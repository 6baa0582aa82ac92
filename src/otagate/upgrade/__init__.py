"""What an upgrade is: the rules, pure. No input or output, no clock, no task (docs/upgrades.md).

Reading order: model (states, the row), events (what can happen), effects (what the gateway then does),
states (the one table that moves an upgrade); then validation, eligibility, counts and waiting.
"""
