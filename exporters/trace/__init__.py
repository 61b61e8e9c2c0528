"""From a torch model to ONNX, by torch.onnx."""
