"""Tests of the data plane: real sockets on 127.0.0.1, both links, virtual time for every deadline."""
