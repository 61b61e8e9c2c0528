"""Export a checkpoint for ONNX Runtime on a CPU in two precisions, compare and time both."""

from nirvana_deploy import ExportConfig, ProfileConfig, export, profile, verify

MODEL = "my-checkpoint"

folders = {}
for precision in ("fp32", "int8"):
    folders[precision] = f"runs/{precision}"
    config = ExportConfig(form="ort-cpu", precision=precision)
    export(MODEL, config, out=folders[precision])  # compared with torch before it is written

comparison = verify(MODEL, folders["int8"])
print("int8 equals the checkpoint within its tolerance:", comparison.passed)
print(f"predictions that agree: {comparison.agreement:.1%}")

measured = profile(folders["fp32"], folders["int8"], ProfileConfig(batch_sizes=(1,), length=64))
for case in measured.cases:
    print(f"batch {case.batch}: {case.speedup.ratio:.2f}x as fast in int8")
