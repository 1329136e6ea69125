"""ONNX files without mmdet: operators, suppression of boxes, quantization."""
