"""Export a decoder and generate with ONNX Runtime through transformers' own `generate`."""

from transformers import AutoTokenizer

from nirvana_deploy import ExportConfig, export, load

MODEL = "my-decoder"
PROMPT = "play dice"

export(MODEL, ExportConfig(form="ort-cpu"), out="runs/decoder-onnx")
tokenizer = AutoTokenizer.from_pretrained(MODEL)
model = load("runs/decoder-onnx")  # files are compared with their hashes first

inputs = tokenizer(PROMPT, return_tensors="pt", return_token_type_ids=False)
tokens = model.generate(**inputs, max_new_tokens=8)
print(tokenizer.decode(tokens[0], skip_special_tokens=True))
