"""Checkpoint in, deploy-form ONNX graphs and a bundle out, each step proven equal to the one before."""
