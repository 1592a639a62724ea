"""The export room: from a checkpoint to ONNX files and TensorRT plans, each checked against its network."""
