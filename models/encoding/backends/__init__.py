"""What computes an encoder's forward pass, and how the fastest faithful one is chosen.

In reading order:

- `base`: the protocol, and the test that every backend must pass
- `request`: what is asked for, and what there is to choose from on this machine
- `choice`: which backend serves
- `torch`: the reference, and the one for GPUs
- `openvino`: processors, without torch
- `conversion`: models converted for OpenVINO, on disk
"""
