"""The Ascend target: ONNX graphs for Huawei's ATC, with gears, and the scripts that compile them."""
