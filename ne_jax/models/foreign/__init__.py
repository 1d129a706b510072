"""Networks that other programs run: ONNX files and PyTorch modules."""
