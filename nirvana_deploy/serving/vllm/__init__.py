"""Plans whose layers differ, in the forms that vLLM and TensorRT-LLM read."""
