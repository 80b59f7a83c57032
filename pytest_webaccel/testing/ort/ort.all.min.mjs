// Stands in for onnxruntime-web where every browser is fake. Nothing runs it.
