"""Export of mmdet's detectors to ONNX."""
