"""The compiled part of the bench: simulated devices without number. The rest is in bench/."""
