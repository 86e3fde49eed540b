"""What computes an encoder's forward pass, and how the fastest faithful one is chosen.

In reading order:

- `base`: the protocol, and the test that every backend must pass
- `request`: what a caller asks for, and which backends this machine offers
- `choice`: which backend serves
- `torch`: the reference, and the one for GPUs
- `openvino`: processors, without torch
- `conversion`: models converted for OpenVINO, on disk
"""
