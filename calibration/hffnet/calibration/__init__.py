"""Float ONNX graph and frames in, activation ranges and an INT8 Q/DQ graph out (numpy, onnx, onnxruntime)."""
