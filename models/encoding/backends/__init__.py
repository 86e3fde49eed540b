"""Backends that compute the forward pass of an encoder, and the choice of the fastest accurate one.

In reading order:

- `base`: the protocol, and the test that every backend must pass
- `request`: the options of a caller, and the backends that this machine offers
- `choice`: the choice of the backend that serves
- `torch`: the reference backend, which also runs on GPUs
- `openvino`: the backend for processors that needs no torch
- `conversion`: models converted for OpenVINO, on disk
"""
